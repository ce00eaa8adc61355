"""The keys that requests are signed with, from whichever provider of the AWS chain has them.

Environment, shared files, SSO, assumed roles, web identity, process, container and instance metadata: all of it is
aiobotocore's, refreshes included. Here is what a gateway needs on top: keys without an `await` on the hot path, one
attempt at a time when there are none, and a fresh look at files and providers after AWS refused the keys, so that a
mended setup is picked up without a restart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

import structlog
from botocore.exceptions import BotoCoreError, ClientError

from adapters.aws.sigv4 import Keys
from gateway.core.errors import CredentialsInvalid

FRESH_FOR: Final = 1.0
"""Seconds until the provider is asked again whether its keys are due for a refresh (it knows without any I/O)."""

USABLE_FOR: Final = 60.0
"""Seconds that keys serve while they are being refreshed. Providers give none that expire within ten minutes."""

RETRY_AFTER: Final = 1.0
"""Seconds between attempts to get keys, while there are none."""

RELOAD_AFTER: Final = 5.0
"""Seconds between fresh looks at the whole chain, while AWS refuses the keys."""

# What providers raise: botocore's errors, STS's answers, unreadable files, and malformed contents of them.
_PROVIDER_ERRORS = (BotoCoreError, ClientError, OSError, RuntimeError, ValueError, KeyError)

log = structlog.get_logger(__name__)


class FrozenCredentials(Protocol):
    """botocore's `ReadOnlyCredentials`."""

    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str: ...
    @property
    def token(self) -> str | None: ...


class ProviderCredentials(Protocol):
    """aiobotocore's `AioCredentials`, refreshable or not."""

    async def get_frozen_credentials(self) -> FrozenCredentials: ...


class CredentialSource(Protocol):
    """aiobotocore's session: the credential chain, read once."""

    async def get_credentials(self) -> ProviderCredentials | None: ...


class Credentials:
    """The current keys. `open_source` starts the chain anew, with nothing remembered; `clock` counts seconds."""

    def __init__(
        self, open_source: Callable[[], CredentialSource], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._open_source = open_source
        self._clock = clock
        self._provider: ProviderCredentials | None = None
        self._keys: Keys | None = None
        self._loaded_at = 0.0
        self._failure: CredentialsInvalid | None = None
        self._retry_at = 0.0
        self._reload_at = 0.0
        self._refresh = asyncio.Lock()

    def current(self) -> Keys | None:
        """Return keys that can be used right now, or None: then `load` has to be awaited."""
        age = self._clock() - self._loaded_at
        if age < FRESH_FOR or (age < USABLE_FOR and self._refresh.locked()):
            return self._keys
        return None

    async def load(self) -> Keys:
        """Ask the provider. Raises `CredentialsInvalid` when there is none, or when it fails."""
        async with self._refresh:
            if self._keys is not None and self._clock() - self._loaded_at < FRESH_FOR:
                return self._keys
            if self._failure is not None and self._clock() < self._retry_at:
                raise CredentialsInvalid(self._failure.problem)
            try:
                self._use(await self._ask())
            except CredentialsInvalid as failure:
                self._fail(failure)
                raise
            assert self._keys is not None
            return self._keys

    def refused(self, keys: Keys) -> None:
        """Take note that AWS does not accept these keys: start the chain anew, now and then."""
        now = self._clock()
        if keys is self._keys and now >= self._reload_at:
            self._reload_at = now + RELOAD_AFTER
            self._provider = self._keys = None

    async def _ask(self) -> FrozenCredentials:
        try:
            if self._provider is None:
                self._provider = await self._open_source().get_credentials()
            if self._provider is not None:
                return await self._provider.get_frozen_credentials()
        except _PROVIDER_ERRORS as error:
            raise CredentialsInvalid(f"no AWS credentials: {error}") from error
        raise CredentialsInvalid("no AWS credentials in the environment, the shared files, or the instance's metadata")

    def _use(self, frozen: FrozenCredentials) -> None:
        keys = Keys(frozen.access_key, frozen.secret_key, frozen.token)
        if keys != self._keys:  # equal ones stay the same object, which the signer recognises
            self._keys = keys
        self._loaded_at = self._clock()
        if self._failure is not None:
            self._failure = None
            log.info("aws_credentials_recovered", access_key=keys.access_key)

    def _fail(self, failure: CredentialsInvalid) -> None:
        if self._failure is None:
            log.error("aws_credentials_failed", problem=failure.problem)
        self._failure = failure
        self._retry_at = self._clock() + RETRY_AFTER
        self._provider = self._keys = None
