"""Ways to log in that ask nobody else: a password that is stored here, and a certificate."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, TypeAlias

from gateway.auth.passwords import MAX_PASSWORD_BYTES
from gateway.auth.pool import CheckPool
from gateway.auth.users import MAX_NAME_LENGTH, Account
from gateway.core.auth import EXTERNAL, Credentials, Identity
from gateway.core.certificate import Certificate

NamePart: TypeAlias = Literal["common_name", "dns", "email", "uri", "subject"]
"""The part of a certificate that is the user's name."""

_PARTS: Final[Mapping[NamePart, Callable[[Certificate], Sequence[str]]]] = {
    "common_name": lambda certificate: certificate.common_names,
    "dns": lambda certificate: certificate.dns,
    "email": lambda certificate: certificate.emails,
    "uri": lambda certificate: certificate.uris,
    "subject": lambda certificate: (certificate.subject,) if certificate.subject else (),
}


class ByPassword:
    """Users with a stored password.

    For a name that nobody has, the password is checked against that of somebody, always the same one: so the time
    that a refusal takes does not tell which names there are, not even where passwords are stored in several forms.
    """

    def __init__(self, accounts: Mapping[str, Account], pool: CheckPool) -> None:
        self._accounts = accounts
        self._stand_ins = list(accounts.values())
        self._secret = secrets.token_bytes(32)
        self._pool = pool

    async def identify(self, credentials: Credentials) -> Identity | None:
        user, password = credentials.username, credentials.password
        if not user or not password or len(password) > MAX_PASSWORD_BYTES or not self._stand_ins:
            return None
        known = self._accounts.get(user)
        account = known or self._stand_in(user)
        matches = await self._pool.run(lambda: account.password.matches(password))
        return Identity(user=user, groups=account.groups) if matches and known is not None else None

    def _stand_in(self, user: str) -> Account:
        digest = hmac.digest(self._secret, user.encode(errors="surrogatepass"), hashlib.sha256)
        return self._stand_ins[int.from_bytes(digest) % len(self._stand_ins)]


class ByCertificate:
    """The name in the certificate that TLS has verified: for AMQP's EXTERNAL, and for peers that give no password."""

    def __init__(self, part: NamePart) -> None:
        self._names = _PARTS[part]

    async def identify(self, credentials: Credentials) -> Identity | None:
        certificate = credentials.certificate
        if certificate is None or (credentials.mechanism != EXTERNAL and credentials.password):
            return None
        names = self._names(certificate)
        # With several names nobody could say who it is.
        if len(names) != 1 or not 0 < len(names[0]) <= MAX_NAME_LENGTH:
            return None
        if credentials.username not in (None, "", names[0]):
            return None
        return Identity(user=names[0])
