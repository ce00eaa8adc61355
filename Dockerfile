# The gateway as a container: docker build -t mqlift .
#
# docs/deploy/image.md says what it expects from where it runs. The base is an argument, so that a mirror of it, or
# another image with Python 3.11 or newer as `python`, can take its place.
ARG BASE_IMAGE=python:3.13-slim-bookworm

# --- build: everything that only installing needs stays here

FROM ${BASE_IMAGE} AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY adapters adapters
COPY config config
COPY gateway gateway
# Binary packages only: what would need a compiler fails here, instead of working on some machines.
# The environment has no pip of its own, so there is none to use in it later.
RUN python -m venv --without-pip /opt/mqlift \
 && python -m pip --python /opt/mqlift/bin/python install --no-cache-dir --only-binary :all: .

# --- what runs

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mqlift" \
      org.opencontainers.image.description="A message broker to MQTT, AMQP and STOMP applications, whose queues live in Amazon SQS" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# A number, as Kubernetes asks for with runAsNonRoot. The folder is the one place that is written to, and only when the
# state store is a file in it.
RUN groupadd --gid 10001 mqlift \
 && useradd --uid 10001 --gid mqlift --no-create-home --home-dir /var/lib/mqlift --shell /usr/sbin/nologin mqlift \
 && install --directory --owner mqlift --group mqlift --mode 0750 /var/lib/mqlift
COPY --from=build /opt/mqlift /opt/mqlift
COPY docker/health.py /opt/mqlift/health.py
ENV PATH=/opt/mqlift/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MQLIFT_LOG__FORMAT=json
WORKDIR /var/lib/mqlift
VOLUME /var/lib/mqlift
USER 10001:10001

# MQTT, AMQP, STOMP; metrics and health.
EXPOSE 1883 5672 61613 9090
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 CMD ["python", "/opt/mqlift/health.py"]
# Drains: takes nothing new, answers what is under way, gives back what was delivered. The process is PID 1 and hears it.
STOPSIGNAL SIGTERM
ENTRYPOINT ["mqlift"]
CMD ["serve", "--config", "/etc/mqlift/mqlift.yaml"]
