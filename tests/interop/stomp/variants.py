"""The clients of other people that mqlift is spoken to with."""

from __future__ import annotations

from dataclasses import dataclass

from tests.interop.stomp.client import Transport, Version


@dataclass(frozen=True, slots=True)
class Variant:
    """A client of somebody, in one version of STOMP, over one transport."""

    name: str
    version: Version
    transport: Transport = "tcp"

    def __str__(self) -> str:
        return f"{self.name}-{self.version}" + ("" if self.transport == "tcp" else f"-{self.transport}")


VARIANTS = (
    Variant("stomppy", "1.0"),
    Variant("stomppy", "1.1"),
    Variant("stomppy", "1.2"),
    Variant("stompman", "1.2"),
    Variant("stompjs", "1.0"),
    Variant("stompjs", "1.1"),
    Variant("stompjs", "1.2"),
    Variant("stompjs", "1.0", "websocket"),
    Variant("stompjs", "1.1", "websocket"),
    Variant("stompjs", "1.2", "websocket"),
    Variant("stompjs", "1.2", "websocket-binary"),
    Variant("stompit", "1.0"),
    Variant("stompit", "1.1"),
    Variant("stompit", "1.2"),
    Variant("ruby", "1.0"),
    Variant("ruby", "1.1"),
    Variant("ruby", "1.2"),
)
