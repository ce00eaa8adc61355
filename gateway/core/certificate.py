"""What a peer's TLS certificate says about who it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

_SHORT_NAMES: Final[Mapping[str, str]] = {
    "commonName": "CN",
    "localityName": "L",
    "stateOrProvinceName": "ST",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "streetAddress": "STREET",
    "domainComponent": "DC",
    "userId": "UID",
}
"""RFC 4514 §3; other attributes keep the name that OpenSSL gives them."""

_ESCAPED: Final = frozenset(',+"\\<>;=')


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate that TLS has verified. What it does not have is empty."""

    subject: str = ""
    """The distinguished name as in RFC 4514, the most specific part first: `CN=press-7,OU=hall,O=Example`."""
    common_names: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    emails: tuple[str, ...] = ()
    uris: tuple[str, ...] = ()

    @classmethod
    def of(cls, peer: Mapping[str, object] | None) -> Certificate | None:
        """From what `ssl.SSLSocket.getpeercert` gives: None or an empty mapping when there is no verified one."""
        if not peer:
            return None
        subject = cast("Sequence[Sequence[tuple[str, str]]]", peer.get("subject", ()))
        alternatives = cast("Sequence[tuple[str, str]]", peer.get("subjectAltName", ()))
        return cls(
            subject=",".join("+".join(map(_written, part)) for part in reversed(subject)),
            common_names=tuple(value for part in subject for name, value in part if name == "commonName"),
            dns=tuple(_of_kind("DNS", alternatives)),
            emails=tuple(_of_kind("email", alternatives)),
            uris=tuple(_of_kind("URI", alternatives)),
        )


def _of_kind(kind: str, alternatives: Sequence[tuple[str, str]]) -> Iterator[str]:
    return (value for name, value in alternatives if name == kind)


def _written(attribute: tuple[str, str]) -> str:
    """One attribute with RFC 4514's escapes (§2.4), so that no value can pass for another attribute."""
    name, value = attribute
    escaped = "".join(
        f"\\{char}" if char in _ESCAPED else f"\\{ord(char):02X}" if char < " " else char for char in value
    )
    if escaped.startswith((" ", "#")):
        escaped = f"\\{escaped}"
    if escaped.endswith(" ") and len(value) > 1:
        escaped = f"{escaped[:-1]}\\ "
    return f"{_SHORT_NAMES.get(name, name)}={escaped}"
