"""Who may connect: so far, everybody or nobody."""

from __future__ import annotations

from gateway.core.auth import Credentials, Identity
from gateway.core.errors import NotAuthorized


class Anonymous:
    """Lets everybody in, as nobody in particular: a name that nothing has proved is not used."""

    async def authenticate(self, credentials: Credentials) -> Identity:  # noqa: ARG002 - Authenticator
        return Identity()


class Nobody:
    """Lets nobody in: `auth.anonymous` is off, and there is no other way yet."""

    async def authenticate(self, credentials: Credentials) -> Identity:  # noqa: ARG002 - Authenticator
        raise NotAuthorized("access refused")
