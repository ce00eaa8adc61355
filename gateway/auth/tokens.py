"""JSON Web Tokens (RFC 7519) as passwords, as OAuth 2 and OpenID Connect servers issue them.

The name that a client gives beside its token is not looked at: who it is stands in the token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import jwt
import structlog

from gateway.auth.jwks import KeySource
from gateway.core.auth import Credentials, Identity

log = structlog.get_logger("mqlift.auth")

MAX_TOKEN_BYTES: Final = 16 * 1024
"""Keycloak's with hundreds of roles have some 8 KiB; HTTP servers take no more in a header either."""

MAX_NAME_LENGTH: Final = 256
"""Characters of a user, and of a group."""

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures that need a private key. Those of a shared secret (HS…) and `none` are not among them: a public key must
never pass for a secret (RFC 8725 §3.1)."""

_TOKEN: Final = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""JWS compact serialization (RFC 7515 §7.1)."""

_TAG: Final = "tag:"
"""A scope that is no permission: RabbitMQ's tags, which are groups here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenOptions:
    """What a token must say, and where it says who somebody is."""

    issuer: str
    audience: str
    algorithms: Sequence[str] = ("RS256", "ES256")
    leeway: float = 30.0
    """Seconds that clocks may differ."""
    user_claim: str = "sub"
    groups_claim: str = ""
    """Empty: none."""
    scopes_claim: str = ""
    """Empty: the token grants nothing by itself; rules and permissions of the user decide."""
    scope_prefix: str = ""
    """Scopes without it are somebody else's."""


class ByToken:
    """Bearer tokens."""

    def __init__(self, options: TokenOptions, keys: KeySource) -> None:
        self._options = options
        self._keys = keys

    async def identify(self, credentials: Credentials) -> Identity | None:
        """Raises `Refused` when the keys cannot be had."""
        token = credentials.password
        if token is None or len(token) > MAX_TOKEN_BYTES or not _TOKEN.fullmatch(token):
            return None
        try:
            header = jwt.get_unverified_header(token)
            key = await self._keys.key(_text(header, "kid"))
            if key is None:
                log.info("token_refused", problem="no such key")
                return None
            return self._identity(self._claims(token, key))
        except jwt.PyJWTError as error:
            log.info("token_refused", problem=type(error).__name__)  # its text may repeat claims
            return None

    def _claims(self, token: bytes, key: jwt.PyJWK) -> Mapping[str, object]:
        """What a token says, once it is known to be right. Raises `jwt.PyJWTError`."""
        options = self._options
        claims: Mapping[str, object] = jwt.decode(
            token,
            key,
            # The key's own algorithm too: a header may not choose another use of it (RFC 8725 §3.1).
            algorithms=[name for name in options.algorithms if name == key.algorithm_name],
            audience=options.audience,
            issuer=options.issuer,
            leeway=options.leeway,
            options={"require": ["exp", "aud", "iss", options.user_claim]},
        )
        return claims

    def _identity(self, claims: Mapping[str, object]) -> Identity | None:
        options = self._options
        user = claims[options.user_claim]
        if not isinstance(user, str) or not 0 < len(user) <= MAX_NAME_LENGTH:
            log.info("token_refused", problem=f"{options.user_claim} is no name")
            return None
        scopes = self._scopes(claims)
        tags = [scope.removeprefix(_TAG) for scope in scopes if scope.startswith(_TAG)]
        return Identity(
            user=user,
            groups=(*_texts(claims, options.groups_claim), *tags),
            scopes=scopes if options.scopes_claim else None,
            expires_at=float(str(claims["exp"])) + options.leeway,
        )

    def _scopes(self, claims: Mapping[str, object]) -> tuple[str, ...]:
        prefix = self._options.scope_prefix
        scopes = _texts(claims, self._options.scopes_claim)
        return tuple(scope.removeprefix(prefix) for scope in scopes if scope.startswith(prefix))


def _text(header: Mapping[str, object], name: str) -> str | None:
    value = header.get(name)
    return value if isinstance(value, str) else None


def _texts(claims: Mapping[str, object], name: str) -> tuple[str, ...]:
    """A claim that is a list, or words in a text as OAuth's `scope` (RFC 8693 §4.2)."""
    value = claims.get(name) if name else None
    if isinstance(value, str):
        return tuple(value.split())
    if isinstance(value, list):
        return tuple(each for each in value if isinstance(each, str) and len(each) <= MAX_NAME_LENGTH)
    return ()
