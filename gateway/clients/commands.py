"""What `mqlift pub` and `mqlift sub` do, once their arguments are known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from gateway.clients.port import ClientError, Incoming, Place, Publisher, Server, Subscriber


def publish(place: Place, server: Server, bodies: Iterable[bytes], headers: Mapping[str, str]) -> int:
    """Publish one after the other, each after the one before it was acknowledged; returns how many.

    Raises `ClientError` at the first that was not.
    """
    published = 0
    with _publisher(place, server, headers) as publisher:
        for body in bodies:
            publisher.publish(body)
            published += 1
    return published


def subscribe(
    place: Place, server: Server, count: int | None, ready: Callable[[], None], show: Callable[[Incoming], None]
) -> None:
    """Show messages as they come: `count` of them, or until interrupted. Raises `ClientError`.

    `ready` is called once subscribed: what is published from then on will be shown.
    """
    with _subscriber(place, server, count) as subscriber:
        ready()
        for message in subscriber.messages():
            show(message)


def _publisher(place: Place, server: Server, headers: Mapping[str, str]) -> Publisher:
    if place.kind == "queue":
        with _installed():
            from gateway.clients.stomp import StompPublisher
        return StompPublisher(server, place.name, headers)
    if headers:
        raise ClientError("MQTT 3.1.1 has no headers; --header works with queue:NAME")
    with _installed():
        from gateway.clients.mqtt import MqttPublisher
    return MqttPublisher(server, place.name)


def _subscriber(place: Place, server: Server, count: int | None) -> Subscriber:
    if place.kind == "queue":
        with _installed():
            from gateway.clients.stomp import StompSubscriber
        return StompSubscriber(server, place.name, count)
    with _installed():
        from gateway.clients.mqtt import MqttSubscriber
    return MqttSubscriber(server, place.name, count)


@contextmanager
def _installed() -> Iterator[None]:
    """The client libraries are optional."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise ClientError(f"{error.name} is not installed; pip install 'mqlift[clients]'") from error
