"""What a rule may say of a Kinesis target, each mistake in one line, and what an operator is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from adapters.kinesis.naming import StreamReference, parse_reference
from adapters.kinesis.settings import DEFAULT_OPTIONS, KinesisOptions, notes, parse_target
from gateway.core.backend import Target
from gateway.core.errors import ConfigError
from gateway.core.templates import Template
from gateway.core.transform import Transform

DEVICE = frozenset({"device"})
ARN = "arn:aws:kinesis:eu-west-1:111122223333:stream/telemetry"


@pytest.mark.parametrize("name", ["telemetry", "a.b-c_D", "x" * 128, ARN, "all-{device}", "{device}"])
def test_names(name: str) -> None:
    assert parse_target(name, {}, DEVICE) == Target(kind="kinesis", name=name, options=DEFAULT_OPTIONS)


def test_options() -> None:
    given = {"partition_key": "{device}", "explicit_hash_key": "{json:h}", "aggregate": True, "max_record_bytes": 4096}
    target = parse_target("telemetry", given, DEVICE)
    assert target.options == KinesisOptions(
        partition_key=Template.parse("{device}", DEVICE),
        explicit_hash_key=Template.parse("{json:h}", DEVICE),
        aggregate=True,
        max_record_bytes=4096,
    )
    assert hash(target) == hash(parse_target("telemetry", given, DEVICE))


def test_topics_that_are_fed() -> None:
    assert parse_target("s", {}, DEVICE).tail == ""
    assert parse_target("s", {"tail": "a/{partition_key}/b"}, DEVICE).tail == "a/{partition_key}/b"


def test_consumers_that_records_are_brought_to() -> None:
    assert parse_target("s", {}, DEVICE).pushed == ()
    assert parse_target("s", {"enhanced_fan_out": ["billing", "a.b-c_D"]}, DEVICE).pushed == ("billing", "a.b-c_D")
    assert parse_target("s", {"tail": "t", "enhanced_fan_out": ["live"]}, DEVICE).pushed == ("live",)
    on_each_host = {"tail": "t", "enhanced_fan_out": ["live-{hostname}"]}
    assert parse_target("s", on_each_host, DEVICE).pushed == ("live-{hostname}",)


@pytest.mark.parametrize(
    ("value", "options", "line"),
    [
        ("", {}, "kinesis: not the name of a stream; give a stream's name or ARN"),
        (5, {}, "kinesis: not the name of a stream; give a stream's name or ARN"),
        ("a/b", {}, "kinesis: 'a/b' is not the name of a Kinesis stream: A-Z"),
        ("x" * 129, {}, "kinesis: 'xxx"),
        ("{site}", {}, "kinesis: unknown field {site}; known are {device}"),
        ("arn:aws:sqs:eu-west-1:111122223333:q", {}, "kinesis: 'arn:aws:sqs:eu-west-1:111122223333:q' is not the ARN"),
        ("s", {"partition": "x"}, "partition: a kinesis target has no such option; known are partition_key, "),
        ("s", {"partition_key": ""}, "partition_key: not a text with fields"),
        ("s", {"partition_key": "{site}"}, "partition_key: unknown field {site}"),
        ("s", {"explicit_hash_key": 5}, "explicit_hash_key: not a text with fields"),
        ("s", {"aggregate": "yes"}, "aggregate: 'yes' is neither true nor false; true or false"),
        ("s", {"max_record_bytes": True}, "max_record_bytes: True is no size of a record; 1024 to 10485760"),
        ("s", {"max_record_bytes": 10_485_761}, "max_record_bytes: 10485761 is no size of a record"),
        ("s", {"tail": True}, "tail: True is not the topic of what is read; a topic without wildcards, in which"),
        ("s", {"tail": "a/#"}, "tail: 'a/#' is not the topic"),
        ("s", {"tail": "a/{device}"}, "tail: 'a/{device}' is not the topic"),
        ("{device}", {"tail": "a"}, "tail: which stream to read depends on a client's name; name one stream"),
        ("s", {"enhanced_fan_out": "billing"}, "enhanced_fan_out: not a list of names; name consumers, such as"),
        ("s", {"enhanced_fan_out": []}, "enhanced_fan_out: not a list of names"),
        ("s", {"enhanced_fan_out": [5]}, "enhanced_fan_out: not a list of names"),
        ("s", {"enhanced_fan_out": ["a b"]}, "enhanced_fan_out: 'a b' cannot be registered; A-Z a-z 0-9 _ . -"),
        ("s", {"enhanced_fan_out": ["a-{hostname}"]}, "enhanced_fan_out: 'a-{hostname}' cannot be registered"),
        ("s", {"tail": "t", "enhanced_fan_out": ["{host}"]}, "enhanced_fan_out: '{host}' cannot be registered"),
        ("s", {"enhanced_fan_out": ["a", "a"]}, "enhanced_fan_out: too many names, or one twice; 50 different ones"),
        ("s", {"enhanced_fan_out": [f"c{n}" for n in range(51)]}, "enhanced_fan_out: too many names"),
        (
            "s",
            {"tail": "t", "enhanced_fan_out": ["a", "b"]},
            "enhanced_fan_out: live subscribers are fed by one consumer; one name, with {hostname} in it",
        ),
        ("s", {"max_record_bytes": 1023}, "max_record_bytes: 1023 is no size of a record"),
    ],
)
def test_mistakes(value: object, options: Mapping[str, object], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_target(value, options, DEVICE)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_references() -> None:
    assert parse_reference("telemetry") == StreamReference("telemetry")
    assert parse_reference("telemetry").ours
    assert parse_reference("telemetry").member == ("StreamName", "telemetry")
    reference = parse_reference(ARN)
    assert (reference.name, reference.region, reference.ours) == ("telemetry", "eu-west-1", False)
    assert reference.member == ("StreamARN", ARN)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, []),
        ({"partition_key": "{device}"}, []),
        ({"partition_key": "all"}, ["every message has the same partition key"]),
        ({"explicit_hash_key": "0"}, ["every message has the same explicit hash key"]),
        ({"partition_key": "a", "explicit_hash_key": "0"}, ["same partition key", "same explicit hash key"]),
    ],
)
def test_notes(options: Mapping[str, object], words: list[str]) -> None:
    found = notes(parse_target("telemetry", options, DEVICE), frozenset())
    assert len(found) == len(words)
    assert all(word in note for word, note in zip(words, found, strict=True))


def test_a_content_type_goes_nowhere() -> None:
    (note,) = notes(
        replace(parse_target("telemetry", {}, DEVICE), transform=Transform(content_type="a/b")), frozenset()
    )
    assert "no content type" in note


def test_a_key_may_turn_out_to_be_constant() -> None:
    fixed = frozenset({"topic", "key"})
    (note,) = notes(parse_target("telemetry", {}, DEVICE), fixed)
    assert "same partition key" in note
    (note,) = notes(parse_target("telemetry", {"partition_key": "x{topic}"}, DEVICE), fixed)
    assert "same partition key" in note
    assert notes(parse_target("telemetry", {"partition_key": "{topic}{client_id}"}, DEVICE), fixed) == ()
