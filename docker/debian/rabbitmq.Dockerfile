# A stand-in for rabbitmq:3.13-management where no registry can be reached: Debian's package (RabbitMQ 3.10).
# Understands what docker-compose.yml uses of the original: two variables and /etc/rabbitmq/enabled_plugins.
ARG BASE_IMAGE=mqlift-base:bookworm
FROM ${BASE_IMAGE}
# Nothing is to be started while packages are installed.
RUN printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod 0755 /usr/sbin/policy-rc.d \
 && apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends rabbitmq-server \
 && rm -rf /var/lib/apt/lists/*
COPY docker/debian/rabbitmq-entrypoint.sh /usr/local/bin/rabbitmq-entrypoint
EXPOSE 1883 5672 15672 61613
ENTRYPOINT ["sh", "/usr/local/bin/rabbitmq-entrypoint"]
