"""Logging in by password and certificate: each way right and wrong, one answer for everything that is wrong."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable

import pytest

from gateway.auth.chain import Chain, Ways
from gateway.auth.pool import CheckPool
from gateway.auth.throttle import Throttle, ThrottleLimits
from gateway.auth.users import Account, User, accounts
from gateway.auth.ways import ByCertificate, ByPassword, NamePart
from gateway.core.auth import Credentials, Identity, renewed
from gateway.core.certificate import Certificate
from gateway.core.errors import NotAuthorized, Refused
from tests.auth.conftest import SteppedClock
from tests.auth.hashes import quick_hash

ANN = User(name="ann", stored=quick_hash("correct horse"), groups=("ops",))
PRESS = Certificate(
    subject="CN=press-7,O=Example", common_names=("press-7",), dns=("press-7.example",), emails=("a@example",), uris=()
)
DEFAULT = ThrottleLimits(per_address=100, per_user=3)


def login(user: str | None = None, password: bytes | None = None, **more: object) -> Credentials:
    return Credentials(protocol="mqtt", client_id="c", username=user, password=password, **more)  # type: ignore[arg-type]


@pytest.fixture
def by_password(pool: CheckPool) -> ByPassword:
    return ByPassword(accounts([ANN]), pool)


@pytest.fixture
def chain(by_password: ByPassword, clock: SteppedClock) -> Chain:
    return Chain(Ways(proofs=[ByCertificate("common_name")], secrets=[by_password]), Throttle(DEFAULT), clock)


async def test_a_right_password(chain: Chain) -> None:
    identity = await chain.authenticate(login("ann", b"correct horse"))
    assert identity == Identity(user="ann", client_id="c", groups=("ops",))


@pytest.mark.parametrize(
    "credentials",
    [
        login("ann", b"wrong"),
        login("ann", b""),
        login("ann"),
        login("ann", b"x" * 2_000),
        login("Ann", b"correct horse"),
        login("bob", b"correct horse"),
        login("", b"correct horse"),
        login(None, b"correct horse"),
        login(),
        login("x" * 70_000, b"correct horse"),
        login("\ud800", b"correct horse"),
    ],
    ids=range(11),
)
async def test_everything_wrong_has_one_answer(credentials: Credentials, chain: Chain) -> None:
    with pytest.raises(NotAuthorized) as caught:
        await chain.authenticate(credentials)
    assert str(caught.value) == "access refused"


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ("common_name", "press-7"),
        ("dns", "press-7.example"),
        ("email", "a@example"),
        ("subject", "CN=press-7,O=Example"),
        ("uri", None),
    ],
)
async def test_the_part_of_a_certificate_that_is_the_name(part: NamePart, expected: str | None) -> None:
    identity = await ByCertificate(part).identify(login(certificate=PRESS))
    assert identity == (None if expected is None else Identity(user=expected))


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [
        (login(certificate=PRESS), "press-7"),
        (login("press-7", certificate=PRESS), "press-7"),
        (login("", b"", certificate=PRESS), "press-7"),
        (login(certificate=PRESS, mechanism="EXTERNAL"), "press-7"),
        (login("ann", certificate=PRESS), None),
        (login("ann", certificate=PRESS, mechanism="EXTERNAL"), None),
        (login("ann", b"correct horse", certificate=PRESS), "ann"),
        (login("ann", b"wrong", certificate=PRESS), None),
        (login(mechanism="EXTERNAL"), None),
        (login(certificate=Certificate(subject="O=Example")), None),
        (login(certificate=Certificate(common_names=("a", "b"))), None),
        (login(certificate=Certificate(common_names=("",))), None),
        (login(certificate=Certificate(common_names=("x" * 300,))), None),
    ],
    ids=range(13),
)
async def test_certificates_and_passwords_together(
    credentials: Credentials, expected: str | None, chain: Chain
) -> None:
    if expected is None:
        with pytest.raises(NotAuthorized, match=r"^access refused$"):
            await chain.authenticate(credentials)
    else:
        assert (await chain.authenticate(credentials)).user == expected


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        (
            {
                "subject": ((("organizationName", "Example, Inc"),), (("commonName", "press 7"),)),
                "subjectAltName": (("DNS", "a.example"), ("email", "b@example"), ("URI", "spiffe://c"), ("DNS", "d")),
            },
            Certificate(
                subject="CN=press 7,O=Example\\, Inc",
                common_names=("press 7",),
                dns=("a.example", "d"),
                emails=("b@example",),
                uris=("spiffe://c",),
            ),
        ),
        (
            {"subject": ((("commonName", "x"), ("userId", "y")),)},
            Certificate(subject="CN=x+UID=y", common_names=("x",)),
        ),
        (
            {"subject": ((("commonName", "#a,O=b+c "),),)},
            Certificate(subject="CN=\\#a\\,O\\=b\\+c\\ ", common_names=("#a,O=b+c ",)),
        ),
        ({"subject": ((("commonName", "a\0b"),),)}, Certificate(subject="CN=a\\00b", common_names=("a\0b",))),
        ({"subject": ()}, Certificate()),
        ({}, None),
        (None, None),
    ],
)
def test_what_the_ssl_module_says(peer: dict[str, object] | None, expected: Certificate | None) -> None:
    assert Certificate.of(peer) == expected


# Anonymous


async def test_anonymous_only_when_configured(by_password: ByPassword, clock: SteppedClock) -> None:
    chain = Chain(Ways(secrets=[by_password], anonymous=True), Throttle(DEFAULT), clock)
    assert await chain.authenticate(login()) == Identity(client_id="c")
    assert await chain.authenticate(login(certificate=PRESS)) == Identity(client_id="c")
    for wrong in (login("ann", b"wrong"), login("bob"), login(None, b"x")):
        with pytest.raises(NotAuthorized):
            await chain.authenticate(wrong)
    assert (await chain.authenticate(login("ann", b"correct horse"))).user == "ann"
    chain = Chain(Ways(secrets=[by_password]), Throttle(DEFAULT), clock)
    with pytest.raises(NotAuthorized):
        await chain.authenticate(login())


async def test_without_any_way_a_name_is_not_looked_at(clock: SteppedClock) -> None:
    chain = Chain(Ways(anonymous=True), Throttle(DEFAULT), clock)
    assert await chain.authenticate(login("ann", b"x")) == Identity(client_id="c")
    chain = Chain(Ways(), Throttle(DEFAULT), clock)
    with pytest.raises(NotAuthorized):
        await chain.authenticate(login())


# Guessing


async def test_too_many_failures_are_refused_unseen(chain: Chain, clock: SteppedClock, logged: io.StringIO) -> None:
    right = login("ann", b"correct horse", peer="192.0.2.1")
    for _ in range(3):
        with pytest.raises(NotAuthorized):
            await chain.authenticate(login("ann", b"wrong", peer="192.0.2.9"))
    with pytest.raises(NotAuthorized, match=r"^access refused$"):
        await chain.authenticate(right)
    clock.now += 60
    assert (await chain.authenticate(right)).user == "ann"
    assert logged.getvalue().count('"wrong"') == 3
    assert logged.getvalue().count('"too_many_failures"') == 1


async def test_guessing_does_not_lock_certificates_out(chain: Chain) -> None:
    for _ in range(300):
        with pytest.raises(NotAuthorized):
            await chain.authenticate(login("press-7", b"wrong", peer="192.0.2.1"))
    assert (await chain.authenticate(login("press-7", certificate=PRESS, peer="192.0.2.1"))).user == "press-7"


async def test_many_guesses_at_once_are_no_way_around(chain: Chain) -> None:
    guesses = [chain.authenticate(login("ann", b"%d" % number)) for number in range(50)]
    results = await asyncio.gather(*guesses, chain.authenticate(login("ann", b"correct horse")), return_exceptions=True)
    assert all(isinstance(result, NotAuthorized) for result in results)


class Unsure:
    """A way that cannot tell."""

    async def identify(self, credentials: Credentials) -> Identity | None:
        raise Refused("the directory does not answer; try again")


async def test_a_way_that_cannot_tell_does_not_keep_others_from_it(
    by_password: ByPassword, clock: SteppedClock
) -> None:
    for ways in (Ways(secrets=[Unsure(), by_password]), Ways(proofs=[Unsure()], secrets=[by_password])):
        chain = Chain(ways, Throttle(DEFAULT), clock)
        assert (await chain.authenticate(login("ann", b"correct horse"))).user == "ann"
        for _ in range(10):  # and it is no failed login
            with pytest.raises(Refused, match="does not answer"):
                await chain.authenticate(login("ann", b"wrong"))


async def test_other_ways_from_now_on(chain: Chain, pool: CheckPool) -> None:
    await chain.authenticate(login("ann", b"correct horse"))
    bob = User(name="bob", stored=quick_hash("battery staple"))
    chain.use(Ways(secrets=[ByPassword(accounts([bob]), pool)]), Throttle(DEFAULT))
    assert (await chain.authenticate(login("bob", b"battery staple"))).user == "bob"
    with pytest.raises(NotAuthorized):
        await chain.authenticate(login("ann", b"correct horse"))


# Time


class Counted:
    """A stored password that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def matches(self, password: bytes) -> bool:
        self.asked += 1
        return True


async def test_an_unknown_name_takes_the_time_of_a_known_one(pool: CheckPool) -> None:
    stored = [Counted() for _ in range(3)]
    way = ByPassword({f"user-{number}": Account(each, ()) for number, each in enumerate(stored)}, pool)
    for _ in range(4):
        assert await way.identify(login("nobody", b"x")) is None
    # Always the same stand-in, or the time would vary as it does for nobody else; and even if it matches.
    assert sorted(each.asked for each in stored) == [0, 0, 4]


class Held:
    """A stored password that is looked at until it is let go."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def matches(self, password: bytes) -> bool:
        return self.release.wait(10)


async def test_a_slow_check_holds_nothing_else_up_and_the_queue_is_bounded() -> None:
    held, pool = Held(), CheckPool("held", threads=1, waiting=2)
    way = ByPassword({"ann": Account(held, ())}, pool)
    waiting = [asyncio.create_task(way.identify(login("ann", b"x"))) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Refused, match="too many logins at once"):
        await way.identify(login("ann", b"x"))
    waiting[0].cancel()  # its peer has gone, and its check still runs
    await asyncio.sleep(0)
    with pytest.raises(Refused):
        await way.identify(login("ann", b"x"))
    held.release.set()
    assert [each is not None and each.user for each in await asyncio.gather(*waiting[1:])] == ["ann", "ann"]
    assert await way.identify(login("ann", b"x")) == Identity(user="ann")
    pool.close()


async def test_a_pool_that_is_retired_ends_what_waits() -> None:
    held, pool = Held(), CheckPool("held", threads=1, waiting=2)
    way = ByPassword({"ann": Account(held, ())}, pool)
    waiting = [asyncio.create_task(way.identify(login("ann", b"x"))) for _ in range(2)]
    await asyncio.sleep(0)
    pool.retire()
    held.release.set()
    assert await asyncio.gather(*waiting) == [Identity(user="ann")] * 2


# Renewal


def test_renewing_keeps_the_user() -> None:
    later = Identity(user="ann", expires_at=2_000.0)
    assert renewed(Identity(user="ann", expires_at=1_000.0), later) is later
    with pytest.raises(NotAuthorized):
        renewed(Identity(user="ann"), Identity(user="bob"))


# The log


@pytest.mark.parametrize("make", [lambda: login("ann", b"s3cret-w0rd", peer="192.0.2.1")])
async def test_the_log_has_no_secret(make: Callable[[], Credentials], chain: Chain, logged: io.StringIO) -> None:
    credentials = make()
    for _ in range(5):
        with pytest.raises(NotAuthorized) as caught:
            await chain.authenticate(credentials)
        assert "s3cret" not in repr(caught.value)
    text = logged.getvalue()
    assert '"login_refused"' in text
    assert '"ann"' in text
    assert "192.0.2.1" in text
    for secret in ("s3cret", ANN.stored):
        assert secret not in text + repr(credentials) + repr(ANN)


async def test_a_name_in_the_log_is_short(chain: Chain, logged: io.StringIO) -> None:
    with pytest.raises(NotAuthorized):
        await chain.authenticate(login("x" * 60_000, b"y"))
    assert len(logged.getvalue()) < 1_000
