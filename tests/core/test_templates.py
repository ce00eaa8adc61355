"""Templates: every field, every mistake, and that literal text survives."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.errors import ConfigError
from gateway.core.message import Address, Headers, HeaderValue, Message, Origin, Properties
from gateway.core.templates import PROPERTY_NAMES, RESERVED_NAMES, Template, template_option


def message(body: bytes = b"", headers: Headers | None = None, properties: Properties | None = None) -> Message:
    return Message(
        Address("amq.topic", "sensors.hall/1.temperature"),
        body,
        properties or Properties(),
        headers or {},
        Origin("mqtt", client_id="device-7", user="alice"),
    )


def render(text: str, given_message: Message | None = None, captures: dict[str, str] | None = None) -> str:
    captures = captures or {}
    return Template.parse(text, captures.keys()).render(given_message or message(), captures)


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("", ""),
        ("orders", "orders"),
        ("{{literal}}", "{literal}"),
        ("{{{client_id}}}", "{device-7}"),
        ("{client_id}", "device-7"),
        ("{user}@{client_id}", "alice@device-7"),
        ("{key}", "sensors.hall/1.temperature"),
        ("{topic}", "sensors/hall.1/temperature"),
        ("a{header:absent}b", "ab"),
        ("a{property:message_id}b", "ab"),
        ("a{json:x}b", "ab"),
        ("ü{user}ü", "üaliceü"),
    ],
)
def test_renders(text: str, rendered: str) -> None:
    assert render(text) == rendered


def test_captures_render_and_a_missing_one_is_empty() -> None:
    template = Template.parse("{site}-{device}", {"site", "device"})
    assert template.render(message(), {"site": "hall", "device": "7"}) == "hall-7"
    assert template.render(message(), {"site": "hall"}) == "hall-"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("text", "text"),
        (True, "true"),
        (False, "false"),
        (7, "7"),
        (2**70, str(2**70)),
        (1.5, "1.5"),
        (Decimal("1.50"), "1.50"),
        (b"bytes", "bytes"),
        (b"\xff\xfe", "//4="),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05+00:00"),
        (None, ""),
        ([1], ""),
        ({"a": 1}, ""),
    ],
)
def test_header_values_as_text(value: HeaderValue, text: str) -> None:
    assert render("{header:h}", message(headers={"h": value})) == text


def test_a_header_name_may_hold_colons_and_spaces() -> None:
    assert render("{header:a b:c}", message(headers={"a b:c": "x"})) == "x"


def test_every_property_renders() -> None:
    assert "correlation_id" in PROPERTY_NAMES
    properties = Properties(correlation_id=b"c-1", priority=4, app_id="shop")
    text = "{property:correlation_id}/{property:priority}/{property:app_id}/{property:type}"
    assert render(text, message(properties=properties)) == "c-1/4/shop/"


@pytest.mark.parametrize(
    ("body", "path", "text"),
    [
        (b'{"a": {"b": "x"}}', "a.b", "x"),
        (b'{"a": [10, {"b": true}]}', "a.1.b", "true"),
        (b'{"a": [10]}', "a.1", ""),
        (b'{"a": [10]}', "a.-1", ""),
        (b'{"a": [10]}', "a." + "9" * 5000, ""),
        (b'{"a": 1.5}', "a", "1.5"),
        (b'{"a": null}', "a", ""),
        (b'{"a": {}}', "a", ""),
        (b'{"a": 1}', "a.b", ""),
        (b"[5]", "0", "5"),
        (b"not json", "a", ""),
        (b"\xff", "a", ""),
        (b"[" * 100_000, "0", ""),
        (b"", "a", ""),
    ],
)
def test_json_paths(body: bytes, path: str, text: str) -> None:
    assert render(f"{{json:{path}}}", message(body)) == text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "{devcie}",
            "unknown field {devcie}; known are {device}, {client_id}, {user}, {topic}, {key}, {header:NAME}, ",
        ),
        ("{}", "unknown field {}; known are"),
        ("{header}", "unknown field {header}; known are"),
        ("{header:}", "field {header:} names no header; write {header:NAME}"),
        ("{json:}", "field {json:} names no json; write {json:NAME}"),
        ("{property:colour}", "unknown field {property:colour}; properties are app_id, content_encoding, "),
        ("{device", "unbalanced '{' in '{device'; a literal brace is written twice"),
        ("device}", "unbalanced '}' in 'device}'"),
        ("{a{device}}", "unbalanced '{' in"),
    ],
)
def test_mistakes_are_told_in_one_line(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        Template.parse(text, {"device"})
    assert str(caught.value).startswith(problem)


def test_constant_and_fields() -> None:
    assert Template.parse("a{{b", set()).constant == "a{b"
    assert Template.parse("a{{b", set()).fields == frozenset()
    template = Template.parse("{user}{header:x}{user}", set())
    assert template.constant is None
    assert template.fields == {"user", "header:x"}


def test_a_preview_fills_in_what_is_known() -> None:
    template = Template.parse("{site}/{header:x}{{}}", {"site"})
    assert template.preview({"site": "hall", "other": "y"}) == "hall/{header:x}{}"


def test_a_name_takes_captures_only() -> None:
    assert Template.parse_name("site-{site}", {"site"}).render_captures({"site": "hall"}) == "site-hall"
    with pytest.raises(ValueError, match=r"^unknown field \{user\}; known are \{site\}$"):
        Template.parse_name("{user}", {"site"})
    with pytest.raises(ValueError, match=r"^unknown field \{user\}; the pattern captures nothing$"):
        Template.parse_name("{user}", set())


def test_equal_texts_are_equal_and_hashable() -> None:
    assert Template.parse("{user}-{key}", set()) == Template.parse("{user}-{key}", {"site"})
    assert len({Template.parse("a", set()), Template.parse("a", set()), Template.parse("b", set())}) == 2


def test_reserved_names_are_the_fields_without_argument() -> None:
    for name in RESERVED_NAMES:
        assert Template.parse(f"{{{name}}}", set()).fields == {name}


@given(st.text())
def test_doubling_braces_makes_any_text_literal(text: str) -> None:
    template = Template.parse(text.replace("{", "{{").replace("}", "}}"), set())
    assert template.constant == text


@given(st.text(alphabet="{}ab:", max_size=12))
def test_parsing_never_raises_anything_else(text: str) -> None:
    try:
        template = Template.parse(text, {"a"})
    except ValueError:
        return
    assert isinstance(template.render(message(), {"a": "x"}), str)


def test_an_option_that_is_a_template() -> None:
    assert template_option("partition_key", None, set()) is None
    assert template_option("partition_key", "{site}", {"site"}) == Template.parse("{site}", {"site"})


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("", 'partition_key: not a text with fields; give a text such as "{client_id}"'),
        (5, 'partition_key: not a text with fields; give a text such as "{client_id}"'),
        ("{", "partition_key: unbalanced '{' in '{'; a literal brace is written twice"),
    ],
)
def test_an_option_that_is_none(value: object, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        template_option("partition_key", value, set())
    assert str(caught.value) == line
