"""What a rule may say of a Firehose target, each mistake in one line, and what an operator is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from adapters.firehose.settings import DEFAULT_OPTIONS, FirehoseOptions, notes, parse_target
from gateway.core.backend import Target
from gateway.core.errors import ConfigError
from gateway.core.transform import Transform

SITE = frozenset({"site"})


@pytest.mark.parametrize("name", ["archive", "a.b-c_D", "x" * 64, "all-{site}"])
def test_names(name: str) -> None:
    assert parse_target(name, {}, SITE) == Target(kind="firehose", name=name, options=DEFAULT_OPTIONS)


def test_options() -> None:
    target = parse_target("archive", {"delimiter": "\n"}, SITE)
    assert target.options == FirehoseOptions(delimiter="\n")
    assert hash(target) == hash(parse_target("archive", {"delimiter": "\n"}, SITE))


@pytest.mark.parametrize(
    ("value", "options", "line"),
    [
        ("", {}, "firehose: not the name of a delivery stream; give its name"),
        (None, {}, "firehose: not the name of a delivery stream; give its name"),
        ("a/b", {}, "firehose: 'a/b' is not the name of a delivery stream; A-Z a-z 0-9 _ . - and 64"),
        ("x" * 65, {}, "firehose: 'xxxx"),
        ("{device}", {}, "firehose: unknown field {device}; known are {site}"),
        ("arn:aws:firehose:eu-west-1:1:deliverystream/a", {}, "firehose: an ARN; Firehose is called by name"),
        ("a", {"delimeter": "x"}, "delimeter: a firehose target has no such option; known are delimiter"),
        ("a", {"delimiter": 5}, "delimiter: 5 is not text; give a text such as"),
        ("a", {"delimiter": "é" * 33}, "delimiter: is too long; 64 bytes at most"),
    ],
)
def test_mistakes(value: object, options: Mapping[str, object], line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_target(value, options, SITE)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_notes() -> None:
    target = parse_target("archive", {"delimiter": "\n"}, SITE)
    assert notes(target, frozenset()) == ()
    (note,) = notes(parse_target("archive", {}, SITE), frozenset())
    assert note.endswith('delimiter: "\\n" puts each on its own line')
    (note,) = notes(replace(target, transform=Transform(content_type="a/b")), frozenset())
    assert "no content type" in note
