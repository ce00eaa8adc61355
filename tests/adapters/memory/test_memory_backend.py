import pytest

import adapters.memory.backend
from adapters.memory.backend import MemoryBackend, open_backend
from adapters.memory.settings import MemoryOptions, parse_target
from gateway.core.backend import QueueSpec, Target
from gateway.core.errors import ConfigError, Throttled
from gateway.core.message import Address, Message

SITE = frozenset({"site"})


@pytest.fixture
def backend() -> MemoryBackend:
    return open_backend(None, prefix="", provision="auto")


@pytest.mark.parametrize(
    ("value", "options", "key"),
    [
        ("", {}, "memory"),
        (7, {}, "memory"),
        ("q-{nope}", {}, "memory"),
        ("q", {"attributes": ["a"]}, "attributes"),
        ("q", {"group_id": 1}, "group_id"),
        ("q", {"deduplication_id": "{nope}"}, "deduplication_id"),
        ("q", {"delay": -1}, "delay"),
        ("q", {"delay": 901}, "delay"),
        ("q", {"delay": "5"}, "delay"),
        ("q", {"delay": True}, "delay"),
    ],
)
def test_mistakes(value: object, options: dict[str, object], key: str) -> None:
    with pytest.raises(ConfigError) as mistake:
        parse_target(value, options, SITE)
    assert mistake.value.key == key


def test_a_target() -> None:
    target = parse_target("q-{site}", {"delay": 5}, SITE)
    assert target == Target(kind="memory", name="q-{site}", options=MemoryOptions(delay=5.0))


async def test_a_delayed_message_wakes_who_waits_for_it(backend: MemoryBackend) -> None:
    target = parse_target("q", {"delay": 0.2}, SITE)
    message = Message(Address("", "q"), b"later")
    await backend.send(target, [backend.encode(target, message)])
    assert (await backend.depth(target)).delayed == 1
    assert await backend.receive(target, 1, 0.0, 30.0) == []
    (received,) = await backend.receive(target, 1, 20.0, 30.0)
    assert received.message is message


async def test_the_number_of_queues_is_bounded(backend: MemoryBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters.memory.backend, "QUEUES_LIMIT", 2)
    for name in ("a", "b", "a"):
        await backend.ensure(Target(kind="memory", name=name), QueueSpec())
    with pytest.raises(Throttled):
        await backend.ensure(Target(kind="memory", name="c"), QueueSpec())
