"""Objects cut into parts, and payloads put together from them."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.aws import content, wire
from adapters.aws.content import Content, Payload, parts_of, payload_bytes
from adapters.aws.wire import encode_body, encoding_of

BODIES = [
    b"",
    b"x",
    b"x" * 15,
    b"x" * 16,
    b"x" * 17,
    b"x" * 64,
    "größer €".encode() * 9,
    b"\xff",
    b"\xff" * 11,
    b"\xff" * 12,
    b"\xff" * 13,
    b"\x00" + b"x" * 47,
    b"x" * 47 + b"\x00",
    "😀\ufffe".encode(),
    "€".encode()[:2],
    b"x" * 15 + "€".encode()[:2],
]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of 16 bytes, 12 of a payload; 5 bytes of it are looked at together."""
    monkeypatch.setattr(content, "PART_BYTES", 16)
    monkeypatch.setattr(content, "_PAYLOAD_BYTES", 12)
    monkeypatch.setattr(wire, "_SCANNED", 5)


@pytest.mark.parametrize("body", BODIES)
def test_the_parts_are_the_text_that_a_message_would_have(body: bytes) -> None:
    text, encoding = encode_body(body)
    cut = Content(body)
    parts = [cut.part(number) for number in range(cut.parts)]
    assert cut.encoding == encoding == encoding_of(body)
    assert b"".join(parts) == text.encode()
    assert cut.size == len(text.encode())
    assert all(len(part) == 16 for part in parts[:-1]), "S3 wants all but the last to be large"


@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode))
def test_every_body_is_cut_as_it_would_be_encoded(body: bytes) -> None:
    cut = Content(body)
    text, encoding = encode_body(body)
    assert (b"".join(map(cut.part, range(cut.parts))), cut.encoding) == (text.encode(), encoding)


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("body", BODIES[1:])
def test_parts_may_come_in_any_order(body: bytes, backwards: bool) -> None:
    cut = Content(body)
    payload = Payload(cut.size, base64=cut.encoding == "base64")
    for number in sorted(range(cut.parts), reverse=backwards):
        payload.add(number, cut.part(number))
    assert payload.body() == body


@given(st.binary(min_size=1, max_size=60))
def test_base64_of_others_is_read(body: bytes) -> None:
    text = base64.b64encode(body)
    payload = Payload(len(text), base64=True)
    for number in range(parts_of(len(text))):
        payload.add(number, text[number * 16 : (number + 1) * 16])
    assert payload.body() == body
    assert 0 <= payload_bytes(len(text), base64=True) - len(body) <= 2


@pytest.mark.parametrize(
    "text",
    [
        b"not base64 at all!",
        b"AAAAAAAAAAAAAAA",
        b"AAAAAAAAAAAAAAAAA",
        b"AAAAAAAAAAAAAA==AAAA",
        b"AAAAAAAAAAAAAA\n=",
    ],
)
def test_what_is_not_base64_is_told(text: bytes) -> None:
    payload = Payload(len(text), base64=True)

    def add_all() -> None:
        for number in range(parts_of(len(text))):
            payload.add(number, text[number * 16 : (number + 1) * 16])

    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        add_all()


def test_an_empty_object_is_an_empty_payload() -> None:
    assert Payload(0, base64=False).body() == b""
