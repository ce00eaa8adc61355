"""Mosquitto's `acl_file` (mosquitto.conf(5)): `user`, `topic` and `pattern` lines, as rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from gateway.auth.patterns import check_filter
from gateway.auth.rules import PUBLISHING, ExchangePlace, Rule, TopicPlace
from gateway.auth.users import read_text
from gateway.core.auth import Action
from gateway.core.errors import ConfigError
from gateway.core.message import TOPIC_EXCHANGE

MAX_BYTES: Final = 16 * 1024 * 1024

ANONYMOUS: Final = ""
"""Lines before the first `user` are for peers without a name."""

_READING: Final = frozenset({Action.RECEIVE, Action.BIND_SOURCE})
_ACTIONS: Final = {
    "read": _READING,
    "write": PUBLISHING,
    "readwrite": _READING | PUBLISHING,
    "deny": _READING | PUBLISHING,
}

_SUBSCRIBING: Final = Rule(allow=True, actions=frozenset({Action.SUBSCRIBE}), place=ExchangePlace(TOPIC_EXCHANGE))
"""Mosquitto lets everybody subscribe to everything, and asks for each message whether it may be read."""


class _Line(NamedTuple):
    user: str | None
    """None for `pattern`, which is for everybody."""
    access: str
    filter: str

    @property
    def order(self) -> tuple[bool, bool]:
        """What a user may is asked first; of each kind, `deny` comes first, wherever it stands."""
        return self.user is None, self.access != "deny"

    def rule(self) -> Rule:
        return Rule(
            allow=self.access != "deny",
            actions=_ACTIONS[self.access],
            place=TopicPlace(self.filter if self.user is None else self.filter.replace("%", "%%")),
            users=None if self.user is None else frozenset({self.user}),
        )


def read_acl(path: Path) -> list[Rule]:
    """Raises `ConfigError`, keyed by the file and line."""
    lines = _lines(path, read_text(path, MAX_BYTES, "an acl_file of Mosquitto"))
    return [*(line.rule() for line in sorted(lines, key=lambda line: line.order)), _SUBSCRIBING]


def _lines(path: Path, text: str) -> Iterator[_Line]:
    user = ANONYMOUS
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        keyword, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        try:
            if keyword == "user" and rest:
                user = rest
            else:
                yield _grant(keyword, rest, user)
        except ValueError as error:
            raise ConfigError(f"{path}: line {number}", str(error), "see acl_file in mosquitto.conf(5)") from None


def _grant(keyword: str, rest: str, user: str) -> _Line:
    if keyword not in ("topic", "pattern") or not rest:
        raise ValueError("is none of 'user NAME', 'topic ACCESS FILTER' and 'pattern ACCESS FILTER'")
    access, _, text = rest.partition(" ")
    if not text:
        access, text = "readwrite", access
    if access not in _ACTIONS:
        raise ValueError(f"{access!r} is not one of {', '.join(_ACTIONS)}")
    return _Line(None if keyword == "pattern" else user, access, check_filter(text.strip()))
