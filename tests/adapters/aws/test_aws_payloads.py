import orjson
import pytest
from pydantic import ValidationError

from adapters.aws.payloads import LargePayload, LargePayloads, LargePayloadSettings, Pointer, parse_pointer
from tests.adapters.sns.scripted_sns import ScriptedSns

PLACE = {"s3BucketName": "b-1", "s3Key": "k"}
PRESENT = "software.amazon.payloadoffloading.PayloadS3Pointer"
FORMER = "com.amazon.sqs.javamessaging.MessageS3Pointer"


def test_a_pointer_is_what_the_extended_clients_write() -> None:
    assert Pointer("b-1", "k").text == f'["{PRESENT}",{{"s3BucketName":"b-1","s3Key":"k"}}]'
    assert parse_pointer(Pointer("b-1", "k").text) == Pointer("b-1", "k")


@pytest.mark.parametrize("name", [PRESENT, FORMER])
def test_both_names_are_read(name: str) -> None:
    assert parse_pointer(orjson.dumps([name, PLACE])) == Pointer("b-1", "k")


@pytest.mark.parametrize(
    "parsed",
    [
        {},
        [],
        [PRESENT],
        [PRESENT, PLACE, 1],
        ["java.lang.Runtime", PLACE],
        [[PRESENT], PLACE],
        [PRESENT, {"s3BucketName": "b"}],
        [PRESENT, {"s3BucketName": 1, "s3Key": "k"}],
        [PRESENT, {"s3BucketName": "b", "s3Key": ""}],
        [PRESENT, "text"],
        None,
    ],
)
def test_what_is_no_pointer(parsed: object) -> None:
    assert parse_pointer(orjson.dumps(parsed)) is None


@pytest.mark.parametrize("text", [Pointer("b-1", "k").text[:end] for end in range(0, 90, 7)])
def test_a_cut_pointer_is_none(text: str) -> None:
    assert parse_pointer(text) is None


@pytest.mark.parametrize(
    ("body", "content", "encoding"),
    [(b"text", b"text", ""), ("größer".encode(), "größer".encode(), ""), (b"\x00\xff", b"AP8=", "base64")],
)
def test_the_object_is_what_the_body_would_be(body: bytes, content: bytes, encoding: str) -> None:
    payload = LargePayload(Pointer("b-1", "k"), body)
    assert (payload.content, payload.encoding) == (content, encoding)
    assert payload.size_attribute == ("ExtendedPayloadSize", "Number", str(len(content)))


def test_only_buckets_of_the_settings_are_read() -> None:
    payloads = LargePayloads(ScriptedSns(), LargePayloadSettings(bucket="b-1", also_read=("b-2",)), 1000)
    sized = {"ExtendedPayloadSize": {}}
    for bucket, read in (("b-1", True), ("b-2", True), ("b-3", False)):
        assert (payloads.pointer(Pointer(bucket, "k").text, sized) is not None) is read
    assert payloads.pointer(Pointer("b-1", "k").text, {"SQSLargePayloadSize": {}}) is not None
    assert payloads.pointer(Pointer("b-1", "k").text, {}) is None


def test_the_threshold_is_never_over_the_limit() -> None:
    for threshold, expected in ((None, 1000), (500, 500), (5000, 1000)):
        settings = LargePayloadSettings(bucket="b-1", threshold=threshold)
        assert LargePayloads(ScriptedSns(), settings, 1000).threshold == expected


@pytest.mark.parametrize("bucket", ["", "ab", "UPPER", "a/b", "a b", "x" * 64])
def test_a_bucket_has_a_legal_name(bucket: str) -> None:
    with pytest.raises(ValidationError):
        LargePayloadSettings(bucket=bucket)
