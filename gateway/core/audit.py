"""The audit log: who was let in or refused, who changed the topology, what operators did. Never a secret.

Its lines are written whatever the level of the log is; `gateway/logs.py` decides where they go.
"""

from __future__ import annotations

import logging
from typing import Final

import structlog

from gateway.core.auth import Authenticator, Credentials, Identity
from gateway.core.errors import NotAuthorized
from gateway.core.metrics import Metrics

LOGGER: Final = "mqlift.audit"

audit: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
    logging.getLogger(LOGGER), wrapper_class=structlog.make_filtering_bound_logger(logging.INFO)
)
"""An event name, and fields: `user`, `peer`, `protocol`, `connection`, `client_id`, and what it is about."""


class AuditedAuthenticator:
    """Tells who was let in and who was not, whoever decides that."""

    def __init__(self, decides: Authenticator, metrics: Metrics) -> None:
        self._decides = decides
        self._accepted = metrics.logins_accepted

    async def authenticate(self, credentials: Credentials) -> Identity:
        """Raises `NotAuthorized`."""
        try:
            identity = await self._decides.authenticate(credentials)
        except NotAuthorized as error:
            audit.warning("login_refused", user=credentials.username or "", **_who(credentials), problem=str(error))
            raise
        self._accepted.labels(credentials.protocol).inc()
        audit.info("login", user=identity.user, **_who(credentials))
        return identity


def _who(credentials: Credentials) -> dict[str, str]:
    return {"protocol": credentials.protocol, "client_id": credentials.client_id, "peer": credentials.peer}
