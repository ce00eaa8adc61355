"""Who may publish, subscribe and receive: the port's answers, in the words of each protocol, on real sockets."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Self

import pytest
import uvloop

from adapters.memory.backend import MemoryBackend
from adapters.memory.store import MemoryStore
from gateway.core.auth import Action, Credentials, Identity
from gateway.core.backend import Backend
from gateway.core.batcher import BatchPolicy
from gateway.core.broker import Broker, BrokerLimits
from gateway.core.health import Health
from gateway.core.receiver import ReceivePolicy
from gateway.core.routes import Routes
from gateway.core.session import Session, SessionContext, SessionFactory
from gateway.core.topology import Topology
from gateway.net.listener import Listener, ListenerOptions
from gateway.protocols.mqtt import session as mqtt
from gateway.protocols.mqtt import settings as mqtt_settings
from gateway.protocols.stomp import session as stomp
from gateway.protocols.stomp import settings as stomp_settings
from tests.faults.device import NOT_AUTHORIZED, PUBREC, V3_1_1, V5, Device, Will
from tests.rig.clients import StompClient
from tests.rig.processes import HOST
from tests.rig.scripted import new_metrics
from tests.rig.waiting import wait_for

PATIENCE = 10.0
PROTOCOLS: dict[str, tuple[SessionFactory, object]] = {
    "mqtt": (mqtt.open_session, mqtt_settings.Settings()),
    "stomp": (stomp.open_session, stomp_settings.Settings()),
}


class ByName:
    """Everybody is who they say they are."""

    async def authenticate(self, credentials: Credentials) -> Identity:
        return Identity(user=credentials.username or "")


@dataclass
class Denials:
    """Allows everything but what is listed: user, action and key."""

    denied: set[tuple[str, Action, str]] = field(default_factory=set)
    asked: list[tuple[str, Action, str, str]] = field(default_factory=list)

    def allows(self, identity: Identity, action: Action, exchange: str, key: str) -> bool:
        self.asked.append((identity.user, action, exchange, key))
        return (identity.user, action, key) not in self.denied


class HostedGateway:
    """Broker and listeners in a thread of their own, over the backend in memory. Use it as a context manager."""

    def __init__(self, authorizer: Denials) -> None:
        self._authorizer = authorizer
        self.ports: dict[str, int] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping = asyncio.Event()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="hosted-gateway")

    def __enter__(self) -> Self:
        self._thread.start()
        wait_for(lambda: self._loop is not None or not self._thread.is_alive(), "the gateway listens")
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        if self._problem is not None:
            raise self._problem

    def _run(self) -> None:
        try:
            uvloop.run(self._serve())
        except Exception as error:  # noqa: BLE001 - shown by the test's thread
            self._problem = error

    async def _serve(self) -> None:
        backends: dict[str, Backend] = {"memory": MemoryBackend()}
        metrics = new_metrics()
        broker = Broker(
            topology=Topology(),
            routes=Routes(),
            backends=backends,
            home="memory",
            authenticator=ByName(),
            authorizer=self._authorizer,
            sending=BatchPolicy(timeout=5.0, backoff_base=0.1, backoff_cap=0.5),
            receiving=ReceivePolicy(wait=1),
            limits=BrokerLimits(),
            store=MemoryStore(),
            metrics=metrics,
            health=Health(),
        )
        listeners = []
        for protocol, (open_session, settings) in PROTOCOLS.items():
            listener = Listener(
                ListenerOptions(protocol=protocol, host=HOST, port=0), _opener(open_session, settings), broker, metrics
            )
            await listener.start()
            self.ports[protocol] = listener.port
            listeners.append(listener)
        self._loop = asyncio.get_running_loop()
        await self._stopping.wait()
        for listener in listeners:
            listener.stop_listening()
        broker.stop_polling()
        for listener in listeners:
            await listener.shutdown(0.0)
        await broker.aclose()


class _opener:  # noqa: N801 - a function with two values in it
    def __init__(self, open_session: SessionFactory, settings: object) -> None:
        self._open_session = open_session
        self._settings = settings

    def __call__(self, peer: str, now: float) -> Session:
        return self._open_session(SessionContext(peer=peer, server="test/1", settings=self._settings), now)


@pytest.fixture
def denials() -> Denials:
    return Denials()


@pytest.fixture
def gateway(denials: Denials) -> Iterator[HostedGateway]:
    with HostedGateway(denials) as hosted:
        yield hosted


@pytest.fixture
def mqtt_port(gateway: HostedGateway) -> int:
    return gateway.ports["mqtt"]


def device(port: int, user: str, *, version: int = V5, will: Will | None = None, clean: bool = True) -> Device:
    return Device(port, f"device-of-{user}", version=version, clean=clean, username=user, will=will)


def subscribed(port: int, topic_filter: str) -> Device:
    """A subscriber that may do everything."""
    watcher = Device(port, "watcher", clean=True, username="watcher")
    assert watcher.subscribe(topic_filter) == 1
    return watcher


# Publishing


def test_a_denied_publish_is_refused_and_goes_nowhere(mqtt_port: int, denials: Denials) -> None:
    denials.denied = {("ann", Action.PUBLISH, "secret.plans")}
    with subscribed(mqtt_port, "#") as watcher, device(mqtt_port, "ann") as ann:
        assert ann.publish("secret/plans", b"no", 1) == NOT_AUTHORIZED
        assert ann.publish("secret/plans", b"no", 2) == NOT_AUTHORIZED
        ann.publish("secret/plans", b"no", 0)
        assert ann.publish("public", b"yes", 2) == 0
        assert watcher.message().payload == b"yes"
    with device(mqtt_port, "bob") as bob:
        assert bob.publish("secret/plans", b"yes", 1) < 0x80
    assert ("ann", Action.PUBLISH, "amq.topic", "secret.plans") in denials.asked


def test_nor_is_it_retained(mqtt_port: int, denials: Denials) -> None:
    denials.denied = {("ann", Action.PUBLISH, "secret.plans")}
    with device(mqtt_port, "ann") as ann:
        assert ann.publish("secret/plans", b"no", 1, retain=True) == NOT_AUTHORIZED
        ann.publish("secret/plans", b"no", 0, retain=True)
        ann.ping()
    with subscribed(mqtt_port, "secret/#") as watcher:
        watcher.publish("secret/last", b"")
        assert watcher.message().topic == "secret/last"


def test_a_device_of_3_1_1_is_closed(mqtt_port: int, denials: Denials) -> None:
    """PUBACK could not say no; docs/compatibility.md has it."""
    denials.denied = {("ann", Action.PUBLISH, "secret.plans")}
    with device(mqtt_port, "ann", version=V3_1_1) as ann:
        ann.send_publish("secret/plans", b"no", 1)
        assert ann.wire.receive_all() == b""


def test_a_refused_identifier_is_free_again(mqtt_port: int, denials: Denials) -> None:
    denials.denied = {("ann", Action.PUBLISH, "secret.plans")}
    with subscribed(mqtt_port, "#") as watcher, device(mqtt_port, "ann", clean=False) as ann:
        for topic, reason in (("secret/plans", NOT_AUTHORIZED), ("public", 0)):
            ann.send_publish(topic, b"x", 2, packet_id=5)
            assert ann.expect(PUBREC).reason == reason
        ann.release(5)
        assert watcher.message().topic == "public"


def test_a_denied_will_is_not_said(mqtt_port: int, denials: Denials) -> None:
    denials.denied = {("ann", Action.PUBLISH, "secret.plans")}
    with subscribed(mqtt_port, "#") as watcher:
        for retain in (False, True):
            with device(mqtt_port, "ann", will=Will(topic="secret/plans", payload=b"no", retain=retain)) as ann:
                ann.wire.send(b"\xff\x00")
                ann.wire.receive_all()
        with device(mqtt_port, "bob", will=Will(topic="secret/plans", payload=b"yes")) as bob:
            bob.wire.reset()
        assert watcher.message().payload == b"yes"


# Subscribing


@pytest.mark.parametrize(("version", "code"), [(V5, NOT_AUTHORIZED), (V3_1_1, 0x80)])
def test_a_denied_filter_is_refused_alone(version: int, code: int, mqtt_port: int, denials: Denials) -> None:
    denials.denied = {("ann", Action.SUBSCRIBE, "secret.#")}
    with device(mqtt_port, "ann", version=version) as ann:
        assert ann.subscribe("secret/#", 1) == code
        assert ann.subscribe("public/#", 1) == 1
        ann.publish("secret/plans", b"no")
        ann.publish("public/news", b"yes")
        assert ann.message().payload == b"yes"


@pytest.mark.parametrize(("version", "code"), [(V5, NOT_AUTHORIZED), (V3_1_1, 0x80)])
def test_so_is_a_denied_shared_subscription(version: int, code: int, mqtt_port: int, denials: Denials) -> None:
    denials.denied = {("ann", Action.BIND_SOURCE, "secret.#")}
    with device(mqtt_port, "ann", version=version) as ann:
        assert ann.subscribe("$share/group/secret/#", 1) == code
        assert ann.subscribe("$share/group/public/#", 1) == 1
        ann.publish("secret/plans", b"no")
        ann.publish("public/news", b"yes")
        assert ann.message().payload == b"yes"


def test_a_kept_session_does_not_keep_a_denied_filter(mqtt_port: int, denials: Denials) -> None:
    denials.denied = {("ann", Action.SUBSCRIBE, "secret.#")}
    with device(mqtt_port, "ann", clean=False) as ann:
        assert ann.subscribe("secret/#") == NOT_AUTHORIZED
        ann.subscribe("public/#")
        ann.disconnect()
    with device(mqtt_port, "bob") as bob:
        bob.publish("secret/plans", b"no")
        bob.publish("public/news", b"yes")
    with device(mqtt_port, "ann", clean=False) as ann:
        assert ann.message().payload == b"yes"


# Receiving


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("clean", [True, False], ids=["clean", "kept"])
def test_a_wildcard_does_not_bring_what_may_not_be_received(
    clean: bool, qos: int, mqtt_port: int, denials: Denials
) -> None:
    denials.denied = {("ann", Action.RECEIVE, "house.secret")}
    with device(mqtt_port, "ann", clean=clean) as ann, device(mqtt_port, "bob") as bob:
        ann.subscribe("house/#", qos)
        bob.subscribe("house/#", 1)
        for topic in ("secret", "open", "secret"):
            bob.publish(f"house/{topic}", topic.encode(), qos)
        message = ann.message()
        ann.accept(message)
        assert message.payload == b"open"
        bob.publish("house/last", b"last", qos)
        assert ann.message().payload == b"last"
        assert [bob.message().payload for _ in range(4)] == [b"secret", b"open", b"secret", b"last"]


def test_nor_does_it_bring_what_was_retained(mqtt_port: int, denials: Denials) -> None:
    denials.denied = {("ann", Action.RECEIVE, "house.secret")}
    with device(mqtt_port, "bob") as bob, device(mqtt_port, "ann") as ann:
        for topic in ("secret", "open"):
            bob.publish(f"house/{topic}", topic.encode(), retain=True)
        ann.subscribe("house/#")
        ann.publish("house/last", b"last")
        assert [ann.message().payload for _ in range(2)] == [b"open", b"last"]


def test_the_window_is_not_used_up_by_what_is_withheld(mqtt_port: int, denials: Denials) -> None:
    denials.denied = {("ann", Action.RECEIVE, "house.secret")}
    with device(mqtt_port, "ann", clean=False) as ann, device(mqtt_port, "bob") as bob:
        ann.subscribe("house/#")
        for _ in range(3 * mqtt_settings.Settings().delivery_window):
            bob.publish("house/secret", b"no")
        bob.publish("house/open", b"yes")
        assert ann.message().payload == b"yes"


# STOMP


def test_a_denied_send_is_an_error(gateway: HostedGateway, denials: Denials) -> None:
    denials.denied = {("ann", Action.PUBLISH, "orders")}
    with StompClient(gateway.ports["stomp"], username="ann") as ann:
        with pytest.raises(AssertionError, match="is not allowed"):
            ann.send("/queue/orders", "no")
        wait_for(lambda: ann.errors, "ERROR")
        assert "not allowed" in str(ann.errors)
    assert ("ann", Action.PUBLISH, "", "orders") in denials.asked


@pytest.mark.parametrize(("destination", "key"), [("/queue/orders", "orders"), ("/topic/orders.#", "orders.#")])
def test_a_denied_subscription_is_an_error(
    destination: str, key: str, gateway: HostedGateway, denials: Denials
) -> None:
    denials.denied = {("ann", Action.SUBSCRIBE, key)}
    with StompClient(gateway.ports["stomp"], username="ann") as ann:
        with pytest.raises(AssertionError, match="refused"):
            ann.subscribe(destination)
        assert "not allowed" in str(ann.errors)
    with StompClient(gateway.ports["stomp"], username="bob") as bob:
        bob.subscribe(destination)


def test_a_stomp_topic_does_not_bring_what_may_not_be_received(
    gateway: HostedGateway, mqtt_port: int, denials: Denials
) -> None:
    denials.denied = {("ann", Action.RECEIVE, "house.secret")}
    with StompClient(gateway.ports["stomp"], username="ann") as ann, device(mqtt_port, "bob") as bob:
        ann.subscribe("/topic/house.#")
        for topic in ("secret", "open"):
            bob.publish(f"house/{topic}", topic.encode())
        assert [delivery.body for delivery in ann.wait_deliveries(1)] == ["open"]
