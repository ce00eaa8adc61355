"""What an error code of AWS means for us.

Services spell the same fault in several ways: with or without a namespace (`com.amazonaws.sqs#QueueDoesNotExist`), in
the names of SQS's former query protocol (`AWS.SimpleQueueService.NonExistentQueue`), with or without `Exception`. All
spellings of a code share one key in the table below.

Sources: the exception shapes of the service models that botocore ships, botocore's retry tables
(`data/_retry.json`, `retries/standard.py`), and the services' "Common errors" pages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

import orjson

from gateway.core.errors import (
    AccessDenied,
    BackendError,
    Contended,
    CredentialsInvalid,
    Invalid,
    NotFound,
    ReceiptExpired,
    Throttled,
    TooLarge,
    Unavailable,
)

MAX_MESSAGE_LENGTH = 500
"""Characters of a service's message that an error keeps: it ends up in one line of a log or of a protocol's error."""

_CODES: dict[type[BackendError], str] = {
    Throttled: """
        Throttling Throttled RequestThrottled TooManyRequests ProvisionedThroughputExceeded RequestLimitExceeded
        BandwidthLimitExceeded LimitExceeded SlowDown PriorRequestNotComplete EC2Throttled KmsThrottled KmsThrottling
        OverLimit
        """,
    # The conflicts end by themselves: a name that is still being deleted, two changes at once.
    Unavailable: """
        InternalFailure InternalError InternalServerError InternalServiceError ServiceUnavailable RequestTimeout
        ConcurrentAccess ConcurrentModification TransactionInProgress TransactionConflict ReplicatedWriteConflict
        QueueDeletedRecently PurgeQueueInProgress
        """,
    # InvalidAddress: SQS's word for a queue URL that this endpoint does not serve.
    NotFound: "QueueDoesNotExist NonExistentQueue ResourceNotFound NotFound TableNotFound KmsNotFound InvalidAddress",
    AccessDenied: """
        AccessDenied AuthorizationError UnauthorizedOperation NotAuthorized Forbidden KmsAccessDenied KmsOptInRequired
        OptInRequired SubscriptionRequired RegionDisabled
        """,
    CredentialsInvalid: """
        UnrecognizedClient InvalidClientTokenId InvalidAccessKeyId ExpiredToken InvalidToken InvalidSecurityToken
        TokenRefreshRequired SignatureDoesNotMatch InvalidSignature IncompleteSignature MissingAuthenticationToken
        AuthFailure RequestExpired RequestTimeTooSkewed RequestInTheFuture
        """,
    # Of Kinesis: what is being made by somebody else, and a shard that another reader of one name has.
    Contended: "ResourceInUse",
    TooLarge: "BatchRequestTooLong RequestEntityTooLarge RequestTooLarge MessageTooLong",
    Invalid: """
        InvalidMessageContents InvalidParameterValue InvalidParameter ParameterValueInvalid InvalidParameterCombination
        InvalidAttributeName InvalidAttributeValue InvalidArgument InvalidIdFormat InvalidBatchEntryId MissingParameter
        BatchEntryIdsNotDistinct EmptyBatchRequest TooManyEntriesInBatchRequest UnsupportedOperation Validation
        ValidationError Serialization
        """,
    ReceiptExpired: "ReceiptHandleIsInvalid MessageNotInflight",
    # For an operator to mend, whatever the HTTP status says.
    BackendError: """
        TopicLimitExceeded SubscriptionLimitExceeded FilterPolicyLimitExceeded ReplayLimitExceeded InvalidSecurity
        KmsDisabled KmsInvalidState KmsInvalidKeyUsage
        """,
}
_CLASSES = {code.lower(): error for error, codes in _CODES.items() for code in codes.split()}

_STATUS_CLASSES: dict[int, type[BackendError]] = {
    403: AccessDenied,
    404: NotFound,
    408: Unavailable,
    413: TooLarge,
    429: Throttled,
    509: Throttled,
}

# Faults that services report as a mere invalid parameter, with only the message to tell them apart.
_REFINEMENTS: tuple[tuple[re.Pattern[str], type[BackendError]], ...] = (
    # SQS SendMessage, SNS Publish, Kinesis PutRecord, DynamoDB PutItem, in this order.
    (
        re.compile(
            r"must be shorter than \d+ bytes|message too long|data'? failed to satisfy constraint: member must have "
            r"length less than|exceeded the maximum allowed size",
            re.IGNORECASE,
        ),
        TooLarge,
    ),
    # SQS DeleteMessage on FIFO queues, ChangeMessageVisibility, and the latter after 12 hours.
    (
        re.compile(
            r"receipt ?handle (?:has expired|is invalid|is not valid)|for parameter ReceiptHandle is invalid|"
            r"not available for visibility timeout change|VisibilityTimeout for the message is beyond the limit",
            re.IGNORECASE,
        ),
        ReceiptExpired,
    ),
)

_PERMISSION = re.compile(r"not authorized to perform:? ([a-z0-9-]+:\w+)", re.IGNORECASE)

# Calls whose permission has another name (Service Authorization Reference).
_PERMISSIONS = {
    "sqs:SendMessageBatch": "sqs:SendMessage",
    "sqs:DeleteMessageBatch": "sqs:DeleteMessage",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
    "sns:PublishBatch": "sns:Publish",
}


def classify(
    service: str, action: str, code: str, message: str, resource: str = "", *, status: int = 0
) -> BackendError:
    """Make the error for a code that a service answered, for a whole call or for one entry of a batch.

    `status` is the HTTP status where there is one; it decides about codes that the table does not know. Such a code
    with a 4xx status gives a plain `BackendError`: neither worth a retry, nor a reason to reject a message for good.
    """
    name = short_code(code)
    error = _error_class(name, message, status)
    call = f"{service}:{action}"
    if error is AccessDenied:
        call = _missing_permission(call, message)
    return error(_problem(name, message, status), resource=resource, action=call)


def code_of(error: BackendError) -> str:
    """Return the service's own code of an error from `classify`, as `short_code` gives it."""
    return error.problem.partition(": ")[0]


def is_of_key(error: BackendError) -> bool:
    """Whether an error is about the KMS key that encrypts a resource, and not about the resource."""
    return code_of(error).upper().startswith("KMS")


def read_fault(body: bytes) -> Mapping[str, object]:
    """What the JSON of a fault says; empty for what is none."""
    try:
        fault = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return cast("dict[str, object]", fault) if isinstance(fault, dict) else {}


def fault_text(fault: Mapping[str, object]) -> str:
    """Its message, which services spell in two ways."""
    return str(fault.get("message") or fault.get("Message") or "")


def short_code(code: str) -> str:
    """Strip what surrounds a code: a namespace (`com.amazonaws.sqs#…`, `AWS.SimpleQueueService.…`), a URL (`…:http://…`)."""
    return code.partition(":")[0].rpartition("#")[2].removeprefix("AWS.SimpleQueueService.")


def _error_class(name: str, message: str, status: int) -> type[BackendError]:
    found = _CLASSES.get(name.removesuffix("Exception").replace(".", "").lower())
    if found is Invalid:
        return next((error for pattern, error in _REFINEMENTS if pattern.search(message)), Invalid)
    if found is not None:
        return found
    if status in _STATUS_CLASSES:
        return _STATUS_CLASSES[status]
    return Unavailable if status >= 500 else BackendError


def _missing_permission(call: str, message: str) -> str:
    """Name the permission: the one in the message, in the documented spelling (SQS writes `sqs:sendmessage`)."""
    needed = _PERMISSIONS.get(call, call)
    named = _PERMISSION.search(message)
    if named is None or named[1].lower() == needed.lower():
        return needed
    return named[1]


def _problem(name: str, message: str, status: int) -> str:
    text = " ".join(message.split())
    if len(text) > MAX_MESSAGE_LENGTH:
        text = f"{text[: MAX_MESSAGE_LENGTH - 1]}…"
    head = name or f"HTTP {status}"
    return f"{head}: {text}" if text else head
