"""What is timed does what it is said to do."""

from __future__ import annotations

import pytest
import stomp.utils

from gateway.protocols.mqtt.codec import Decoder
from gateway.protocols.mqtt.packets import Level, Publish
from gateway.protocols.stomp.codec import FrameParser
from tests.bench import codecs, trie


@pytest.mark.parametrize("operation", codecs.OPERATIONS.values(), ids=codecs.OPERATIONS.keys())
def test_both_sides_handle_all_frames_in_each_turn(operation: codecs.Operation) -> None:
    for turn in (operation.ours(), operation.theirs()):
        assert turn() == codecs.READ
        assert turn() == codecs.READ


def test_both_sides_read_the_same() -> None:
    decoder = Decoder(codecs.LARGEST, Level.V3_1_1)
    decoder.feed(codecs.PUBLISHES)
    assert decoder.next_packet() == Publish(codecs.TOPIC, codecs.PAYLOAD, 1, 1)
    parser = FrameParser(codecs.LIMITS)
    parser.receive_data(codecs.SEND)
    frame = parser.next_frame()
    theirs = stomp.utils.parse_frame(codecs.SEND.removesuffix(b"\0"))
    assert frame is not None
    assert (frame.command, frame.headers, frame.body) == (theirs.cmd, theirs.headers, theirs.body)


def test_every_operation_has_both_figures() -> None:
    figures = codecs.measure(0.0)
    assert len(figures) == 2 * len(codecs.OPERATIONS)
    assert all(value > 0 for value in figures.values())


def test_the_trie_has_what_was_asked_for() -> None:
    figures = trie.measure(500, 0.0)
    assert figures["subscriptions"] == 500
    assert figures["found"] > 3, "two match everything, one all sensors of a kind"
    assert 0 < figures["match_us"] <= figures["match_p99_us"]
    assert figures["bytes_each"] > 50


def test_few_patterns_are_alike() -> None:
    made = trie.patterns(5000)
    assert len(set(made)) > 4700
    assert sum("*" in pattern or "#" in pattern for pattern in made) > 500
