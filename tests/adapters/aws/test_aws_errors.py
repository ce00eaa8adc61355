"""The meaning of error codes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import botocore
import pytest

from adapters.aws.api import ERROR_OUTCOMES, OUTCOMES
from adapters.aws.errors import MAX_MESSAGE_LENGTH, classify, code_of, short_code
from gateway.core.errors import (
    AccessDenied,
    BackendError,
    CredentialsInvalid,
    Invalid,
    NotFound,
    ReceiptExpired,
    Throttled,
    TooLarge,
    Unavailable,
)
from gateway.core.streams.port import PositionLost

EXPIRED = "Value AQEB for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired."
UNCHANGEABLE = "Value AQEB for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not available "
SQS_TOO_LONG = "One or more parameters are invalid. Reason: Message must be shorter than 1048576 bytes."
KINESIS_TOO_LONG = (
    "1 validation error detected: Value at 'data' failed to satisfy constraint: "
    "Member must have length less than or equal to 1048576"
)


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        ("com.amazonaws.sqs#QueueDoesNotExist", "", NotFound),
        ("AWS.SimpleQueueService.NonExistentQueue", "", NotFound),
        ("QueueDoesNotExist", "", NotFound),
        ("ResourceNotFoundException", "Stream x not found", NotFound),
        ("NotFound", "Topic does not exist", NotFound),
        ("KMS.NotFoundException", "", NotFound),
        ("RequestThrottled", "", Throttled),
        ("com.amazonaws.sqs#RequestThrottled", "", Throttled),
        ("ThrottlingException", "Rate exceeded", Throttled),
        ("ProvisionedThroughputExceededException", "", Throttled),
        ("com.amazonaws.dynamodb.v20120810#ProvisionedThroughputExceededException", "", Throttled),
        ("KMS.ThrottlingException", "", Throttled),
        ("KMSThrottlingException", "", Throttled),
        ("KmsThrottled", "", Throttled),
        ("OverLimit", "", Throttled),
        ("InternalFailure", "", Unavailable),
        ("InternalError", "", Unavailable),
        ("ServiceUnavailableException", "Slow down.", Unavailable),
        ("AWS.SimpleQueueService.QueueDeletedRecently", "", Unavailable),
        ("AccessDeniedException", "", AccessDenied),
        ("AuthorizationError", "", AccessDenied),
        ("KmsAccessDenied", "", AccessDenied),
        ("KMS.AccessDeniedException", "", AccessDenied),
        ("UnrecognizedClientException", "", CredentialsInvalid),
        ("InvalidClientTokenId", "", CredentialsInvalid),
        ("com.amazon.coral.service#InvalidSecurityTokenException", "", CredentialsInvalid),
        ("ExpiredToken", "", CredentialsInvalid),
        ("ExpiredTokenException", "", CredentialsInvalid),
        ("SignatureDoesNotMatch", "", CredentialsInvalid),
        ("InvalidSignatureException", "", CredentialsInvalid),
        ("IncompleteSignature", "", CredentialsInvalid),
        ("MissingAuthenticationTokenException", "", CredentialsInvalid),
        ("InvalidMessageContents", "", Invalid),
        ("InvalidParameterValue", "The request must contain the parameter MessageGroupId.", Invalid),
        ("ValidationException", "", Invalid),
        ("InvalidParameterValue", SQS_TOO_LONG, TooLarge),
        ("InvalidParameter", "Invalid parameter: Message too long", TooLarge),
        ("ValidationException", KINESIS_TOO_LONG, TooLarge),
        ("ValidationException", "Item size has exceeded the maximum allowed size", TooLarge),
        ("AWS.SimpleQueueService.BatchRequestTooLong", "", TooLarge),
        ("ReceiptHandleIsInvalid", "", ReceiptExpired),
        ("AWS.SimpleQueueService.MessageNotInflight", "", ReceiptExpired),
        ("InvalidParameterValue", EXPIRED, ReceiptExpired),
        ("InvalidParameterValue", UNCHANGEABLE, ReceiptExpired),
        ("TopicLimitExceeded", "", BackendError),
        ("SomethingNew", "", BackendError),
        ("", "", BackendError),
    ],
)
def test_codes(code: str, message: str, expected: type[BackendError]) -> None:
    assert type(classify("sqs", "SendMessage", code, message, "sqs queue orders")) is expected


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (301, BackendError),
        (400, BackendError),
        (403, AccessDenied),
        (404, NotFound),
        (408, Unavailable),
        (413, TooLarge),
        (429, Throttled),
        (500, Unavailable),
        (502, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
        (509, Throttled),
    ],
)
def test_the_status_decides_about_unknown_codes(status: int, expected: type[BackendError]) -> None:
    for code in ("", "SomethingNew"):
        assert type(classify("sqs", "SendMessage", code, "", "", status=status)) is expected
    assert type(classify("sqs", "SendMessage", "RequestThrottled", "", "", status=status)) is Throttled
    assert type(classify("sns", "CreateTopic", "TopicLimitExceeded", "", "", status=status)) is BackendError


def test_the_error_says_what_where_and_why() -> None:
    error = classify(
        "sqs", "SendMessageBatch", "com.amazonaws.sqs#QueueDoesNotExist", "No\nsuch  queue.", "sqs queue q"
    )
    assert str(error) == "sqs queue q (sqs:SendMessageBatch): QueueDoesNotExist: No such queue."
    assert (error.resource, error.action, code_of(error)) == (
        "sqs queue q",
        "sqs:SendMessageBatch",
        "QueueDoesNotExist",
    )


def test_an_answer_without_a_code() -> None:
    error = classify("sqs", "ReceiveMessage", "", "", "sqs queue q", status=503)
    assert str(error) == "sqs queue q (sqs:ReceiveMessage): HTTP 503"


@pytest.mark.parametrize(
    ("service", "action", "message", "permission"),
    [
        ("sqs", "SendMessageBatch", "Access to the resource https://… is denied.", "sqs:SendMessage"),
        ("sqs", "ChangeMessageVisibilityBatch", "", "sqs:ChangeMessageVisibility"),
        ("sns", "PublishBatch", "", "sns:Publish"),
        ("kinesis", "PutRecords", "", "kinesis:PutRecords"),
        (
            "sqs",
            "SendMessageBatch",
            "User: arn:aws:iam::1:user/x is not authorized to perform: sqs:sendmessage on resource: arn:aws:sqs:…",
            "sqs:SendMessage",
        ),
        (
            "sqs",
            "SendMessageBatch",
            "User: arn:aws:iam::1:user/x is not authorized to perform: kms:GenerateDataKey on this resource",
            "kms:GenerateDataKey",
        ),
    ],
)
def test_access_denied_names_the_permission(service: str, action: str, message: str, permission: str) -> None:
    error = classify(service, action, "AccessDeniedException", message, "resource")
    assert type(error) is AccessDenied
    assert error.action == permission


def test_long_messages_are_cut() -> None:
    error = classify("sqs", "SendMessage", "InvalidParameterValue", "x" * 10_000, "")
    assert len(error.problem) == len("InvalidParameterValue: ") + MAX_MESSAGE_LENGTH
    assert error.problem.endswith("…")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("QueueDoesNotExist", "QueueDoesNotExist"),
        ("com.amazonaws.sqs#QueueDoesNotExist", "QueueDoesNotExist"),
        ("AWS.SimpleQueueService.NonExistentQueue", "NonExistentQueue"),
        ("ValidationException:http://internal.amazon.com/coral/com.amazon.coral.validate/", "ValidationException"),
        ("", ""),
    ],
)
def test_short_code(code: str, expected: str) -> None:
    assert short_code(code) == expected


@pytest.mark.parametrize("service", ["sqs", "sns", "kinesis", "firehose", "dynamodb"])
def test_every_throttle_and_refusal_of_the_service_models_is_known(service: str) -> None:
    """Codes that say in their name what they are are understood so, also those that a newer model brings."""
    for code in modelled_codes(service):
        found = type(classify(service, "AnyAction", code, "", ""))
        if "Throttl" in code or "ThroughputExceeded" in code:
            assert found is Throttled, code
        if "AccessDenied" in code or "AuthorizationError" in code:
            assert found is AccessDenied, code
        if code.startswith("Internal"):
            assert found is Unavailable, code


def modelled_codes(service: str) -> list[str]:
    (*_, path) = sorted((Path(botocore.__file__).parent / "data" / service).glob("*/service-2.json.gz"))
    shapes = json.loads(gzip.decompress(path.read_bytes()))["shapes"]
    return [
        shape.get("error", {}).get("code", name) for name, shape in shapes.items() if shape.get("exception") is True
    ]


def test_every_class_has_an_outcome() -> None:
    # What a stream's backend tells of a position is not what AWS answered to a message.
    assert set(ERROR_OUTCOMES) == {BackendError, TooLarge, *BackendError.__subclasses__()} - {PositionLost}
    assert len(OUTCOMES) == len(ERROR_OUTCOMES) + 2
