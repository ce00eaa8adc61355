"""From a backend's queue into the hub: deleted when accepted everywhere, released otherwise."""

from __future__ import annotations

import asyncio

import pytest

from gateway.core.backend import QueueSpec
from gateway.core.batcher import BatchPolicy
from gateway.core.errors import AccessDenied, BackendError, Unavailable
from gateway.core.health import Health
from gateway.core.ingress import LOOK, PREFETCH, Incoming, Ingress, IngressRule
from gateway.core.message import Address, Message
from gateway.core.outcome import ACCEPTED, UNROUTED, Outcome, Result
from gateway.core.receiver import ReceivePolicy
from gateway.core.sender import Publisher
from gateway.core.templates import Template
from tests.rig.clock import at_end, on_clock, settle_down, until
from tests.rig.scripted import TARGET, ScriptedBackend, new_metrics

REFUSED = Result(Outcome.RELEASED, Unavailable("not now"))
REJECTED = Result(Outcome.REJECTED, Unavailable("never"))


class Hub:
    """Keeps what is published until the test answers."""

    def __init__(self) -> None:
        self.published: list[tuple[Message, Publisher, object]] = []

    def publish(self, message: Message, publisher: Publisher, token: object) -> None:
        self.published.append((message, publisher, token))

    @property
    def bodies(self) -> list[bytes]:
        return [message.body for message, _, _ in self.published]

    def answer(self, result: Result = ACCEPTED) -> None:
        waiting, self.published = self.published, []
        for _, publisher, token in waiting:
            publisher.answer(token, result)


class ScriptedInlet:
    """Takes everything but what says `own`; fails to attach as often as there are `failures`."""

    def __init__(self, *failures: BackendError) -> None:
        self.failures = list(failures)
        self.attached = 0

    async def attach(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.attached += 1

    def take(self, message: Message) -> Incoming | None:
        return None if message.body == b"own" else Incoming(message, {"subject": "s.1"})


class Rig:
    def __init__(self, *failures: BackendError, key: str = "in/{subject}", exchange: str = "amq.topic") -> None:
        self.backend = ScriptedBackend()
        self.hub = Hub()
        self.health = Health()
        self.inlet = ScriptedInlet(*failures)
        template = Template.parse(key, frozenset({"subject"}))
        self.ingress = Ingress(
            IngressRule(key="ingress.0", exchange=exchange, routing_key=template, as_topic=bool(exchange)),
            self.inlet,
            self.hub,
            self.backend,
            TARGET,
            QueueSpec(),
            sending=BatchPolicy(timeout=5.0),
            receiving=ReceivePolicy(),
            metrics=new_metrics(),
            health=self.health,
        )
        at_end(self.ingress.aclose)

    async def run(self, *bodies: bytes) -> None:
        self.running = asyncio.create_task(self.ingress.run())
        at_end(self._stop)
        await settle_down()
        self.backend.arrive(*bodies)
        await settle_down()

    async def _stop(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)

    def outcomes(self) -> list[Outcome]:
        return [outcome for receipts, outcome in self.backend.settled for _ in receipts]


@pytest.fixture(autouse=True)
def longest_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda _low, high: high)


@on_clock
async def test_a_message_is_published_where_the_rule_says() -> None:
    rig = Rig()
    await rig.run(b"hello")
    ((message, _, _),) = rig.hub.published
    assert message.body == b"hello"
    # The text is an MQTT topic, in which dots and slashes change places.
    assert message.address == Address("amq.topic", "in.s/1")
    assert rig.backend.ensured == ["orders"]
    assert rig.inlet.attached == 1


@on_clock
async def test_it_is_deleted_only_when_it_was_accepted() -> None:
    rig = Rig()
    await rig.run(b"a", b"b")
    assert rig.hub.bodies == [b"a", b"b"]
    assert not rig.backend.settled
    rig.hub.answer(ACCEPTED)
    await settle_down()
    assert rig.outcomes() == [Outcome.ACCEPTED] * 2


@on_clock
async def test_what_nobody_wants_is_accepted_too() -> None:
    rig = Rig()
    await rig.run(b"a")
    rig.hub.answer(UNROUTED)
    await settle_down()
    assert rig.outcomes() == [Outcome.ACCEPTED]


@on_clock
async def test_what_is_for_a_queue_waits_until_there_is_one() -> None:
    rig = Rig(exchange="", key="{subject}")
    await rig.run(b"a")
    rig.hub.answer(UNROUTED)
    await settle_down()
    assert not rig.backend.settled
    await asyncio.sleep(0.6)
    await settle_down()
    assert rig.outcomes() == [Outcome.RELEASED]


@pytest.mark.parametrize(
    ("exchange", "key", "queue"), [("", "jobs", "jobs"), ("", "{subject}", None), ("amq.topic", "jobs", None)]
)
def test_the_queue_of_a_rule(exchange: str, key: str, queue: str | None) -> None:
    template = Template.parse(key, frozenset({"subject"}))
    assert IngressRule(key="ingress.0", exchange=exchange, routing_key=template).queue == queue


@on_clock
@pytest.mark.parametrize("result", [REFUSED, REJECTED])
async def test_what_was_not_accepted_comes_back_after_a_while(result: Result) -> None:
    rig = Rig()
    await rig.run(b"a")
    rig.hub.answer(result)
    await settle_down()
    assert not rig.backend.settled, "at once, it would go round and round"
    await asyncio.sleep(0.6)
    await settle_down()
    assert rig.outcomes() == [Outcome.RELEASED]


@on_clock
async def test_our_own_messages_are_dropped() -> None:
    rig = Rig()
    await rig.run(b"own", b"theirs")
    assert rig.hub.bodies == [b"theirs"]
    assert rig.outcomes() == [Outcome.ACCEPTED]


@on_clock
async def test_no_more_is_taken_than_the_hub_has_room_for() -> None:
    rig = Rig()
    await rig.run(*[b"%d" % number for number in range(PREFETCH + 50)])
    assert len(rig.hub.published) == PREFETCH
    rig.hub.answer()
    await settle_down()
    assert len(rig.hub.published) == 50


@on_clock
async def test_back_pressure_stops_the_polling() -> None:
    rig = Rig()
    await rig.run()
    rig.ingress.pause("one")
    rig.ingress.pause("other")
    await asyncio.sleep(60)  # the poll that was under way ends
    asked = len(rig.backend.asked)
    rig.ingress.resume("one")
    await asyncio.sleep(60)
    assert len(rig.backend.asked) == asked
    rig.ingress.resume("other")
    rig.backend.arrive(b"a")
    await settle_down()
    assert rig.hub.bodies == [b"a"]


@on_clock
async def test_attaching_is_tried_until_it_succeeds() -> None:
    rig = Rig(Unavailable("down"), AccessDenied("may not", action="sns:Subscribe"))
    await rig.run()
    await asyncio.sleep(0.6)
    (problem,) = rig.health.problems
    assert "sns:Subscribe" in problem.text
    await until(lambda: rig.inlet.attached == 1, "it is attached")
    assert not rig.health.problems


@on_clock
async def test_what_somebody_removes_is_made_again() -> None:
    rig = Rig()
    await rig.run()
    rig.inlet.failures.append(Unavailable("down"))
    await asyncio.sleep(LOOK + 1)
    assert rig.inlet.attached == 2
    assert rig.backend.ensured == ["orders"] * 3, "also after a failure"


@on_clock
async def test_a_stop_gives_back_what_was_refused() -> None:
    rig = Rig()
    await rig.run(b"a", b"b")
    refused, later = rig.hub.published
    refused[1].answer(refused[2], REFUSED)
    rig.ingress.stop()
    await settle_down()
    assert rig.outcomes() == [Outcome.RELEASED]
    later[1].answer(later[2], ACCEPTED)
    await rig.ingress.drain()
    assert rig.outcomes() == [Outcome.RELEASED, Outcome.ACCEPTED]


@on_clock
async def test_what_a_last_poll_brings_is_released() -> None:
    rig = Rig()
    await rig.run()
    rig.ingress.stop()
    rig.ingress.pause("flow")
    rig.ingress.resume("flow")
    rig.backend.arrive(b"late")
    await rig.ingress.drain()
    assert not rig.hub.published
    assert rig.outcomes() == [Outcome.RELEASED]
