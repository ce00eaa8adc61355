"""Keys: when they are asked for, refreshed, refused, and found again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from botocore.exceptions import CredentialRetrievalError

from adapters.aws.credentials import FRESH_FOR, RELOAD_AFTER, RETRY_AFTER, USABLE_FOR, Credentials
from adapters.aws.sigv4 import Keys
from gateway.core.errors import CredentialsInvalid

ONE, TWO = Keys("AKIDONE", "one", "token-one"), Keys("AKIDTWO", "two")


class Frozen(NamedTuple):
    access_key: str
    secret_key: str
    token: str | None


@dataclass
class Chain:
    """A credential chain and a clock that a test sets. `answer` is what a provider gives: keys, none, or an error."""

    answer: Keys | Exception | None = ONE
    now: float = 1000.0
    opened: int = 0
    asked: int = 0
    gate: asyncio.Event | None = None
    credentials: Credentials = field(init=False)

    def __post_init__(self) -> None:
        self.credentials = Credentials(self.open, lambda: self.now)

    def open(self) -> Chain:
        self.opened += 1
        return self

    async def get_credentials(self) -> Chain | None:
        return None if self.answer is None else self

    async def get_frozen_credentials(self) -> Frozen:
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        assert self.answer is not None
        return Frozen(*self.answer)

    async def keys(self) -> Keys:
        return self.credentials.current() or await self.credentials.load()


async def test_keys_are_kept_for_a_moment() -> None:
    chain = Chain()
    assert chain.credentials.current() is None
    first = await chain.keys()
    assert first == ONE
    chain.now += FRESH_FOR * 0.9
    assert chain.credentials.current() is first
    chain.now += FRESH_FOR
    assert chain.credentials.current() is None
    assert await chain.keys() is first  # equal keys stay the same object
    assert (chain.opened, chain.asked) == (1, 2)


async def test_refreshed_keys_are_taken_over() -> None:
    chain = Chain()
    await chain.keys()
    chain.answer = TWO
    chain.now += FRESH_FOR
    assert await chain.keys() == TWO


async def test_old_keys_serve_while_new_ones_are_on_their_way() -> None:
    chain = Chain()
    old = await chain.keys()
    chain.gate = asyncio.Event()
    chain.now += FRESH_FOR
    refresh = asyncio.ensure_future(chain.keys())
    await asyncio.sleep(0)
    assert chain.credentials.current() is old
    chain.now += USABLE_FOR
    assert chain.credentials.current() is None
    chain.answer = TWO
    chain.gate.set()
    assert await refresh == TWO
    assert chain.credentials.current() == TWO


async def test_many_callers_ask_once() -> None:
    chain = Chain()
    assert set(await asyncio.gather(*(chain.keys() for _ in range(20)))) == {ONE}
    assert chain.asked == 1


def refresh_failed() -> Exception:
    failure: Exception = CredentialRetrievalError(provider="test", error_msg="role is gone")
    return failure


@pytest.mark.parametrize(
    ("failure", "problem"),
    [
        (lambda: None, "no AWS credentials in the environment"),
        (refresh_failed, "role is gone"),
        (lambda: OSError("cannot read token file"), "cannot read token file"),
        (lambda: RuntimeError("Credentials were refreshed, but are still expired."), "still expired"),
        (lambda: KeyError("AccessKeyId"), "AccessKeyId"),
    ],
)
async def test_failures_are_reported_and_end_by_themselves(
    failure: Callable[[], Exception | None], problem: str
) -> None:
    chain = Chain()
    await chain.keys()
    chain.answer = failure()
    chain.credentials.refused(await chain.keys())
    with pytest.raises(CredentialsInvalid, match=problem):
        await chain.keys()
    chain.answer = TWO
    with pytest.raises(CredentialsInvalid, match=problem):  # not asked again at once
        await chain.keys()
    chain.now += RETRY_AFTER
    assert await chain.keys() == TWO


async def test_a_failed_refresh_ends_the_old_keys() -> None:
    chain = Chain()
    await chain.keys()
    chain.answer = refresh_failed()
    chain.now += FRESH_FOR
    for _ in range(2):
        with pytest.raises(CredentialsInvalid, match="role is gone"):
            await chain.keys()
        assert chain.credentials.current() is None


async def test_refused_keys_are_looked_up_anew_now_and_then() -> None:
    chain = Chain()
    chain.credentials.refused(await chain.keys())
    assert chain.credentials.current() is None
    chain.credentials.refused(await chain.keys())
    assert chain.opened == 2
    assert chain.credentials.current() == ONE  # refused again, within the time: kept
    chain.now += RELOAD_AFTER
    old = await chain.keys()
    chain.credentials.refused(old)
    chain.answer = TWO
    assert await chain.keys() == TWO
    chain.now += RELOAD_AFTER
    chain.credentials.refused(old)  # a late answer to a request with the old keys
    assert chain.credentials.current() is None  # only the time has passed
    assert await chain.keys() == TWO
    assert chain.opened == 3


async def test_a_cancelled_caller_leaves_no_trace() -> None:
    chain = Chain(gate=asyncio.Event())
    call = asyncio.ensure_future(chain.keys())
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    chain.gate = None
    assert await chain.keys() == ONE
