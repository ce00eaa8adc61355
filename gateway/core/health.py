"""What is wrong right now, told once when it begins and once when it is mended, and shown by `/readyz`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import structlog

from gateway.core.errors import AccessDenied, BackendError, Contended, CredentialsInvalid, MqliftError, NotFound

log = structlog.get_logger("mqlift.health")

MAX_PROBLEMS: Final = 1_000
"""Problems that are remembered at once; more of them are the same outage, told by those."""

_OF_ONE: Final = (AccessDenied, Contended, NotFound)
"""Errors that are one resource's own."""

FAILURES_TO_REPORT: Final = 3
"""Failed requests in a row that make a problem of what may be a single lost packet."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something an operator has to mend, or to wait for."""

    resource: str
    text: str
    fatal: bool
    """Whether nothing can work until it is mended: no credentials, or no answer from AWS."""


class Health:
    """The open problems by resource. The state of one gateway; used from its event loop only."""

    def __init__(self) -> None:
        self.draining = False
        self._problems: dict[str, Problem] = {}

    @property
    def problems(self) -> list[Problem]:
        return list(self._problems.values())

    @property
    def ready(self) -> bool:
        """Whether new connections are welcome: not draining, and no problem that stops everything."""
        return not self.draining and not any(problem.fatal for problem in self._problems.values())

    def is_fatal(self, resource: str) -> bool:
        """Whether this resource has a problem that stops everything."""
        problem = self._problems.get(resource)
        return problem is not None and problem.fatal

    def report(self, resource: str, error: MqliftError) -> None:
        """Remember a problem; a log line only when it is new or has changed."""
        text = str(error)
        known = self._problems.get(resource)
        if known is not None and known.text == text:
            return
        if known is None and len(self._problems) >= MAX_PROBLEMS:
            return
        fatal = isinstance(error, BackendError) and not isinstance(error, _OF_ONE) and not error.permanent
        self._problems[resource] = Problem(resource, text, fatal)
        if isinstance(error, AccessDenied | NotFound | CredentialsInvalid):
            log.error("resource_unusable", resource=resource, problem=text)
        else:
            log.warning("resource_failing", resource=resource, problem=text)

    def clear(self, resource: str) -> None:
        """The resource works (again)."""
        if self._problems.pop(resource, None) is not None:
            log.info("resource_recovered", resource=resource)
