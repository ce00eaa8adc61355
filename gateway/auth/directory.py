"""LDAP: a login is a bind with the user's own name and password (RFC 4513 §5.1.3).

ldap3 blocks, so each login has a thread of its own for as long as the directory takes.
"""

from __future__ import annotations

import contextlib
import math
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from ldap3 import NONE, SUBTREE, Connection, Server, Tls
from ldap3.core.exceptions import LDAPException, LDAPInvalidCredentialsResult, LDAPOperationResult
from ldap3.utils.conv import escape_filter_chars
from ldap3.utils.dn import escape_rdn

from gateway.auth.passwords import MAX_PASSWORD_BYTES
from gateway.auth.pool import CheckPool
from gateway.core.auth import Credentials, Identity
from gateway.core.errors import Refused

log = structlog.get_logger("mqlift.auth")

MAX_GROUPS: Final = 1_000

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,127}")
"""Names as directories have them. They compare names without regard to case, spaces and encodings of accents, and rules
do not: so two spellings of one user must not be two users here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupSearch:
    """Where the groups of a user are. `{dn}` and `{user}` are filled in."""

    base: str
    filter: str = "(member={dn})"
    attribute: str = "cn"


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectoryOptions:
    """Which directory, and how its users are named there."""

    host: str
    port: int
    tls: bool
    """From the first byte (ldaps)."""
    starttls: bool
    user_dn: str
    """With `{user}`, such as `uid={user},ou=people,dc=example,dc=org`."""
    ca: Path | None = None
    """PEM file of who signs the directory's certificate. None: the system's authorities."""
    timeout: float = 5.0
    """Seconds to connect, and for each answer."""
    groups: GroupSearch | None = None


class ByDirectory:
    """Users of an LDAP directory. A user's name is in small letters afterwards, however it was written."""

    def __init__(self, options: DirectoryOptions, pool: CheckPool) -> None:
        """Raises `OSError` when the file of authorities cannot be loaded."""
        self._options = options
        self._tls = _CheckedTls(ssl.create_default_context(cafile=options.ca))
        self._pool = pool

    async def identify(self, credentials: Credentials) -> Identity | None:
        """Raises `Refused` when the directory does not answer."""
        user, password = credentials.username, credentials.password
        # A bind without a password is one as nobody, and succeeds (RFC 4513 §5.1.2).
        if not user or not password or len(password) > MAX_PASSWORD_BYTES or not _NAME.fullmatch(user):
            return None
        try:
            text = password.decode()
        except UnicodeDecodeError:
            return None  # LDAP's passwords are text (RFC 4513 §5.1.3)
        if "\0" in text:
            return None
        name = user.lower()
        return await self._pool.run(lambda: self._bind(name, text))

    def _bind(self, user: str, password: str) -> Identity | None:
        dn = self._options.user_dn.format(user=escape_rdn(user))
        connection = self._connection(dn, password)
        try:
            if self._options.tls or self._options.starttls:
                connection.open(read_server_info=False)
            if self._options.starttls:
                connection.start_tls(read_server_info=False)
            connection.bind(read_server_info=False)
            return Identity(user=user, groups=self._groups(connection, dn, user))
        except LDAPInvalidCredentialsResult:
            return None
        except LDAPOperationResult as error:  # a locked account, or a base of groups that is not there
            log.info("directory_refused", host=self._options.host, problem=str(error.description))
            return None
        except LDAPException as error:
            log.warning("directory_does_not_answer", host=self._options.host, problem=type(error).__name__)
            raise Refused("the directory does not answer; try again") from error
        finally:
            _close(connection)

    def _connection(self, dn: str, password: str) -> Connection:
        options = self._options
        server = Server(
            options.host,
            port=options.port,
            use_ssl=options.tls,
            tls=self._tls,
            get_info=NONE,
            connect_timeout=options.timeout,
        )
        return Connection(
            server,
            user=dn,
            password=password,
            auto_referrals=False,  # another server has not been trusted with passwords
            raise_exceptions=True,
            receive_timeout=math.ceil(options.timeout),  # ldap3 takes whole seconds only
            read_only=True,
        )

    def _groups(self, connection: Connection, dn: str, user: str) -> tuple[str, ...]:
        search = self._options.groups
        if search is None:
            return ()
        values = {"dn": escape_filter_chars(dn), "user": escape_filter_chars(user)}
        connection.search(
            search.base, search.filter.format(**values), SUBTREE, attributes=[search.attribute], size_limit=MAX_GROUPS
        )
        return tuple(
            str(name)
            for entry in connection.entries
            for name in entry[search.attribute].values
            if isinstance(name, str)
        )


class _CheckedTls(Tls):
    """TLS by the `ssl` module's own checks of name and chain, with a context that is made once."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__(validate=ssl.CERT_REQUIRED)
        self._context = context

    def wrap_socket(self, connection: Connection, do_handshake: bool = False) -> None:  # noqa: ARG002 - ldap3's
        """Called by ldap3 before anything else is sent; raises what `ssl` does."""
        connection.socket = self._context.wrap_socket(connection.socket, server_hostname=connection.server.host)


def _close(connection: Connection) -> None:
    """Also a socket that never became a connection, because TLS failed: ldap3 leaves it open."""
    with contextlib.suppress(LDAPException):  # a farewell that a directory may not be there for
        connection.unbind()
    if connection.socket is not None:
        connection.socket.close()
