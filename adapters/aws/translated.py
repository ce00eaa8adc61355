"""What botocore and aiohttp raise, as the hub's errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import aiohttp
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    HTTPClientError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
)
from botocore.exceptions import ConnectionError as BotocoreConnectionError
from botocore.parsers import ResponseParserError

from adapters.aws.errors import classify
from gateway.core.errors import BackendError, CredentialsInvalid, Invalid, Unavailable

_CLASSES: tuple[tuple[tuple[type[Exception], ...], type[BackendError]], ...] = (
    ((ParamValidationError,), Invalid),
    ((NoCredentialsError, PartialCredentialsError, CredentialRetrievalError), CredentialsInvalid),
    ((BotocoreConnectionError, HTTPClientError, ResponseParserError, aiohttp.ClientError), Unavailable),
)


@contextmanager
def translated(service: str, action: str, resource: str) -> Iterator[None]:
    """Raise what botocore and aiohttp raise as `BackendError`."""
    call = f"{service}:{action}"
    try:
        yield
    except BackendError as error:  # from the credentials or the client, which do not know what they are for
        raise type(error)(error.problem, resource=resource, action=call) from error
    except ClientError as error:
        answer = cast("dict[str, dict[str, object]]", error.response)
        code, message = (str(answer.get("Error", {}).get(key, "")) for key in ("Code", "Message"))
        status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        raise classify(service, action, code, message, resource, status=cast("int", status)) from error
    except TimeoutError as error:
        raise Unavailable("no answer in time", resource=resource, action=call) from error
    except (BotoCoreError, ResponseParserError, aiohttp.ClientError, ValueError) as error:
        found = next((ours for theirs, ours in _CLASSES if isinstance(error, theirs)), BackendError)
        raise found(" ".join(str(error).split()), resource=resource, action=call) from error
