#!/usr/bin/env bash
# The compose stack on a bare Debian machine that reaches apt and PyPI but no container registry.
#
#   apt-get install docker.io docker-compose debootstrap
#   scripts/docker-on-debian.sh engine     # start a Docker engine by hand
#   scripts/docker-on-debian.sh images     # a base image from debootstrap, RabbitMQ from Debian's package, and ours
#   scripts/docker-on-debian.sh test       # the compose test; its exit code is the tests'
#   scripts/docker-on-debian.sh stop       # stop the engine, and delete what it kept
#
# Runs as root. Everything is kept in STAND_IN_DIR (default: /tmp/mqlift-docker), about 11 GB: the vfs storage driver works
# everywhere, and copies each layer. docs/deploy/compose.md says when this is of use.
set -euo pipefail

cd "$(dirname "$0")/.."

DIR=${STAND_IN_DIR:-/tmp/mqlift-docker}
MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
SUITE=bookworm
BASE_IMAGE=mqlift-base:$SUITE
RABBITMQ_IMAGE=mqlift-rabbitmq:$SUITE
CERTIFICATES=/etc/ssl/certs/ca-certificates.crt

export DOCKER_HOST=unix://$DIR/docker.sock
export BASE_IMAGE RABBITMQ_IMAGE
# docker.io on Debian comes without the newer builder.
export DOCKER_BUILDKIT=0 COMPOSE_DOCKER_CLI_BUILD=0

engine() {
  mkdir -p "$DIR"
  # Without rules of iptables, containers reach each other and not the world.
  dockerd --iptables=false --ip6tables=false --storage-driver=vfs --host="$DOCKER_HOST" \
    --data-root="$DIR/data" --exec-root="$DIR/run" --pidfile="$DIR/docker.pid" >"$DIR/dockerd.log" 2>&1 &
  for _ in $(seq 60); do
    if docker info >/dev/null 2>&1; then
      echo "engine: process $(cat "$DIR/docker.pid"), $DOCKER_HOST"
      return
    fi
    sleep 0.5
  done
  tail -20 "$DIR/dockerd.log" >&2
  exit 1
}

base_image() {
  [[ -e $DIR/base/usr/bin/python3 ]] || debootstrap --variant=minbase \
    --include=ca-certificates,python3,python3-venv,python3-pip "$SUITE" "$DIR/base" "$MIRROR"
  # The name that the public images have; and this machine's authorities, for networks that sign by themselves.
  ln -sf python3 "$DIR/base/usr/bin/python"
  cp "$CERTIFICATES" "$DIR/base$CERTIFICATES"
  tar -C "$DIR/base" -c --exclude=./var/cache/apt --exclude=./var/lib/apt/lists . | docker import - "$BASE_IMAGE"
}

# With the host's network: see engine.
build() {
  local tag=$1 file=$2
  shift 2
  docker build --network=host --quiet --build-arg BASE_IMAGE="$BASE_IMAGE" "$@" --tag "$tag" --file "$file" .
}

images() {
  docker image inspect "$BASE_IMAGE" >/dev/null 2>&1 || base_image
  docker image inspect "$RABBITMQ_IMAGE" >/dev/null 2>&1 || build "$RABBITMQ_IMAGE" docker/debian/rabbitmq.Dockerfile
  build mqlift:local Dockerfile
  build mqlift-emulator:local docker/emulator/Dockerfile
  build mqlift-legacy:local examples/legacy/Dockerfile
  build mqlift-compose-test:local tests/compose/Dockerfile
  docker images
}

# Not `docker-compose run`: `up` starts in order, and gives the exit code of the tests.
compose_test() {
  local code=0
  docker-compose --profile test up --no-build --abort-on-container-exit --exit-code-from tests || code=$?
  docker-compose --profile test ps
  docker-compose --profile test down --volumes
  return "$code"
}

stop() {
  if [[ -e $DIR/docker.pid ]]; then
    local pid
    pid=$(cat "$DIR/docker.pid")
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
  fi
  # What the engine leaves mounted when it ends: its own network namespace.
  local mounted
  for mounted in "$DIR"/run/netns/*; do
    if mountpoint -q "$mounted"; then umount "$mounted"; fi
  done
  rm -rf "$DIR"
}

case ${1:-} in
  engine) engine ;;
  images) images ;;
  test) compose_test ;;
  stop) stop ;;
  *)
    sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2
    exit 2
    ;;
esac
