"""Client ids that another gateway's connections claim: the connection that has one here is the older one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

import orjson
import structlog

log = structlog.get_logger("mqlift.fleet")

CLAIM: Final = "claim"
"""Announced, and never written: it means something while both connections are there."""


def pack_claim(client_id: str, user: str) -> str:
    return orjson.dumps([client_id, user]).decode()


class ClaimFollower:
    """See `membership.Follower`. Whose session is kept is lost by its record; of others, the announcement has to do.

    A gateway follows the others before it claims a client id itself, so what it reads here is later. Only where two
    gateways let the same client in at the same time do both of them close their connection.
    """

    kinds = (CLAIM,)

    def __init__(self, is_kept: Callable[[str], bool], claimed: Callable[[str, str], None]) -> None:
        self._is_kept = is_kept
        self._claimed = claimed

    async def follow(self, changes: Mapping[str, Collection[str]]) -> None:
        """As `Follower.follow`."""
        for key in changes.get(CLAIM, ()):
            try:
                client_id, user = map(str, orjson.loads(key))
            except (TypeError, ValueError) as error:
                log.error("claim_unreadable", problem=str(error))  # noqa: TRY400 - told in one line
                continue
            if not self._is_kept(client_id):
                self._claimed(client_id, user)

    async def rescan(self) -> None:
        """There is nothing to be read: who has missed a claim keeps its connection until the client has gone."""
