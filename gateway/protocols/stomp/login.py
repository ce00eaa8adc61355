"""The CONNECT frame: which version, who, and which heart-beats."""

from __future__ import annotations

from typing import NamedTuple

from gateway.core.auth import Credentials
from gateway.protocols.stomp.codec import Frame
from gateway.protocols.stomp.errors import VersionMismatch
from gateway.protocols.stomp.heartbeat import Intervals, negotiate
from gateway.protocols.stomp.versions import OFFERED, Version

PROTOCOL = "stomp"


class ConnectRequest(NamedTuple):
    """What a CONNECT or STOMP frame asks for. `host` is not in it: there is one virtual host, under any name."""

    version: Version
    credentials: Credentials
    intervals: Intervals


def read_connect(frame: Frame, heart_beat_floor: int) -> ConnectRequest:
    """`heart_beat_floor` in milliseconds. Raises `VersionMismatch` or `BadHeader`."""
    headers = frame.headers
    # [STOMP 1.2, Protocol Negotiation] without the header, a client speaks 1.0 only.
    version = _negotiate_version(headers.get("accept-version", "1.0"))
    if version.trims:
        headers = {name: value.lstrip(" ") for name, value in headers.items()}
    passcode = headers.get("passcode")
    return ConnectRequest(
        version,
        Credentials(
            protocol=PROTOCOL,
            client_id=headers.get("client-id", ""),
            username=headers.get("login"),
            password=None if passcode is None else passcode.encode(),
        ),
        # Version 1.0 does not know the header; a client that sends it gets what it asks for, as from both brokers.
        negotiate(headers.get("heart-beat", "0,0"), heart_beat_floor),
    )


def _negotiate_version(accepted: str) -> Version:
    common = {version.strip() for version in accepted.split(",")} & OFFERED.keys()
    if not common:
        raise VersionMismatch(sorted(OFFERED))
    return OFFERED[max(common)]
