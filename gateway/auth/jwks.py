"""Keys that tokens are signed with: a JSON Web Key Set (RFC 7517), from a file or from the server that issues them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Protocol

import aiohttp
import jwt
import structlog

from gateway.auth.users import read_text
from gateway.core.errors import ConfigError, Refused

log = structlog.get_logger("mqlift.auth")

MAX_BYTES: Final = 1024 * 1024
MAX_KEYS: Final = 100

FETCH_TIMEOUT: Final = 5.0
"""Seconds for one answer."""

RETRY_AFTER: Final = 10.0
"""Seconds between two fetches at least, however many tokens name keys that are not there: anybody can write one."""

_REMEDY: Final = 'a JSON Web Key Set, {"keys": [...]}, with public keys'


class KeySource(Protocol):
    """Where the keys are."""

    async def key(self, key_id: str | None) -> jwt.PyJWK | None:
        """The key with an id; the only one, when a token names none. Raises `Refused` when none can be had now."""


class KeySet:
    """The keys that can check signatures, by id."""

    def __init__(self, text: str | bytes) -> None:
        """Raises `ValueError` for what has no usable key."""
        try:
            document = json.loads(text)
            keys = jwt.PyJWKSet.from_dict(document).keys if isinstance(document, dict) else []
        except (jwt.PyJWTError, ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise ValueError(f"is no key set: {type(error).__name__}") from None
        # A secret is nobody's public key; one for encryption signs nothing (RFC 7517 §4.2).
        usable = [key for key in keys if key.key_type != "oct" and key.public_key_use in (None, "sig")][:MAX_KEYS]
        if not usable:
            raise ValueError("has no public key for signatures")
        self._keys: Mapping[str | None, jwt.PyJWK] = {key.key_id: key for key in usable}

    def get(self, key_id: str | None) -> jwt.PyJWK | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id)


class FileKeys:
    """Keys in a file, read once."""

    def __init__(self, path: Path) -> None:
        """Raises `ConfigError` keyed by the path."""
        try:
            self._keys = KeySet(read_text(path, MAX_BYTES, _REMEDY))
        except ValueError as error:
            raise ConfigError(str(path), str(error), _REMEDY) from None

    async def key(self, key_id: str | None) -> jwt.PyJWK | None:
        return self._keys.get(key_id)


class ServerKeys:
    """Keys of a server, fetched when they are first needed and again from time to time.

    A key that is not known is looked for at once, as servers change theirs without a word. While the server does not
    answer, the keys that are there stay good.
    """

    def __init__(self, url: str, refresh: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`refresh`: seconds after which keys are fetched again."""
        self._url = url
        self._refresh = refresh
        self._clock = clock
        self._keys: KeySet | None = None
        self._fetched = self._tried = float("-inf")
        self._fetching = asyncio.Lock()

    async def key(self, key_id: str | None) -> jwt.PyJWK | None:
        found = None if self._keys is None else self._keys.get(key_id)
        if found is None or self._clock() - self._fetched >= self._refresh:
            await self._fetch_again()
            found = None if self._keys is None else self._keys.get(key_id)
        if self._keys is None:
            raise Refused("tokens cannot be checked now; try again")
        return found

    async def _fetch_again(self) -> None:
        """Fetch, unless somebody has just done so. Whoever comes meanwhile waits for that one."""
        asked = self._clock()
        async with self._fetching:
            if self._tried >= asked or self._clock() - self._tried < RETRY_AFTER:
                return
            self._tried = self._clock()
            try:
                self._keys = KeySet(await _get(self._url))
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                log.warning("keys_not_fetched", url=self._url, problem=str(error) or type(error).__name__)
            else:
                self._fetched = self._tried


async def _get(url: str) -> bytes:
    """Raises what aiohttp does, and `ValueError` for an answer that cannot be used."""
    timeout = aiohttp.ClientTimeout(total=FETCH_TIMEOUT)
    async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, allow_redirects=False) as answer:
        if answer.status != 200:
            raise ValueError(f"the server answered {answer.status}")
        content = await answer.content.read(MAX_BYTES + 1)
        while len(content) <= MAX_BYTES and (more := await answer.content.read(MAX_BYTES + 1 - len(content))):
            content += more
        if len(content) > MAX_BYTES:
            raise ValueError(f"the answer is larger than {MAX_BYTES} bytes")
        return content
