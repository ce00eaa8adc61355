"""What a session says of large bodies: how much it expects, and what it needs no more."""

import pytest

from gateway.core.commands import Publish
from gateway.protocols.stomp.codec import UNANNOUNCED

LARGEST = 1_000_000


@pytest.fixture
def active(open_line):
    line = open_line(max_body=LARGEST)
    line.connect()
    return line


def test_it_expects_what_content_length_says(active):
    active.send(b"SEND\ndestination:/queue/q\ncontent-length:300000\n\n")
    assert active.session.assembling == 300_000
    active.send(b"x" * 299_999)
    assert active.session.assembling == 300_000
    active.send(b"x\0")
    assert active.session.assembling == 0
    assert len(active.take(Publish)[0].message.body) == 300_000


def test_one_that_says_nothing_may_be_the_largest(active):
    active.send(b"SEND\ndestination:/queue/q\n\n")
    assert active.session.assembling == 0
    active.send(b"x" * (UNANNOUNCED + 1))
    assert active.session.assembling == LARGEST
    active.send(b"\0")
    assert active.session.assembling == 0


def test_headers_alone_are_not_counted(active):
    active.send(b"SEND\ndestination:/queue/q\ncontent-length:300000\n")
    assert active.session.assembling == 0


@pytest.mark.parametrize(("dialect", "needed"), [("rabbitmq", False), ("activemq", True)])
def test_where_a_nack_writes_a_dead_letter_the_body_is_needed(open_line, dialect, needed):
    line = open_line(dialect=dialect)
    line.connect()
    tag = line.subscribe(ack="client-individual")
    (delivery,), _ = line.deliver(tag, b"x")
    assert line.session.needs_body(delivery) is needed
