#!/bin/sh
# As the entry point of the public image: the user that the environment names, on every interface.
set -eu
cat > /etc/rabbitmq/rabbitmq.conf <<CONF
default_user = ${RABBITMQ_DEFAULT_USER:-guest}
default_pass = ${RABBITMQ_DEFAULT_PASS:-guest}
loopback_users = none
log.console = true
CONF
# They are the names of settings of the broker's start script too, which would take them for something else.
unset RABBITMQ_DEFAULT_USER RABBITMQ_DEFAULT_PASS
export HOME=/var/lib/rabbitmq
cd "$HOME"
# Not the one in /usr/sbin, which puts a shell in between that does not pass signals on.
exec setpriv --reuid=rabbitmq --regid=rabbitmq --clear-groups /usr/lib/rabbitmq/bin/rabbitmq-server
