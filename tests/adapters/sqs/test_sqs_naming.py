import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.aws.names import TAG_VALUE_LIMIT, tag_value
from adapters.sqs.naming import NAME_LIMIT, QueueReference, parse_reference, queue_name

LEGAL = re.compile(r"[A-Za-z0-9_-]{1,75}\.fifo|[A-Za-z0-9_-]{1,80}")
NAMES = st.text(min_size=1, max_size=120).filter(lambda name: name != ".fifo")


@pytest.mark.parametrize(
    ("name", "fifo", "expected"),
    [
        ("orders", False, "orders"),
        ("orders", True, "orders.fifo"),
        ("orders.fifo", False, "orders.fifo"),
        ("orders.fifo", True, "orders.fifo"),
        ("Orders_new-1", False, "Orders_new-1"),
        ("a" * 80, False, "a" * 80),
        ("a" * 75, True, "a" * 75 + ".fifo"),
        ("orders.new", False, "orders-new-7f9945ec"),
        ("orders/new", False, "orders-new-a985712a"),
        ("orders/new", True, "orders-new-a985712a.fifo"),
        ("a.fifo.fifo", False, "a-fifo-8d513226.fifo"),
        ("straße", False, "stra-e-787f4770"),
        ("a" * 81, False, "a" * 71 + "-8c48280d"),
        ("a" * 76, True, "a" * 66 + "-f8b8aba6.fifo"),
    ],
)
def test_names(name: str, fifo: bool, expected: str) -> None:
    assert queue_name(name, fifo=fifo) == expected
    assert LEGAL.fullmatch(expected)


@pytest.mark.parametrize("name", ["", ".fifo"])
def test_nothing_cannot_be_named(name: str) -> None:
    with pytest.raises(ValueError, match="empty name"):
        queue_name(name)


@given(NAMES, st.booleans())
def test_names_are_always_legal_and_stay(name: str, fifo: bool) -> None:
    made = queue_name(name, fifo=fifo)
    assert LEGAL.fullmatch(made)
    assert len(made) <= NAME_LIMIT
    assert queue_name(made) == made
    assert made.endswith(".fifo") == (fifo or name.endswith(".fifo"))


@given(st.sets(NAMES.filter(lambda name: not name.endswith(".fifo")), min_size=2), st.booleans())
def test_different_names_make_different_queues(names: set[str], fifo: bool) -> None:
    assert len({queue_name(name, fifo=fifo) for name in names}) == len(names)


@pytest.mark.parametrize("pair", [("a.b", "a/b"), ("a-b", "a.b"), ("x" * 81, "x" * 82), ("é", "è")])
def test_names_that_look_alike_once_changed_stay_apart(pair: tuple[str, str]) -> None:
    assert queue_name(pair[0]) != queue_name(pair[1])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("orders.new/2", "orders.new/2"),
        ("a#b*", "a=23b=2A"),
        ("a=b", "a=3Db"),
        ("straße", "stra=C3=9Fe"),
        ("\ud800", "=ED=A0=80"),
        ("x" * 300, "x" * 256),
    ],
)
def test_tags(name: str, expected: str) -> None:
    assert tag_value(name) == expected


@given(st.text(max_size=400))
def test_tags_are_always_legal(name: str) -> None:
    value = tag_value(name)
    assert re.fullmatch(r"[A-Za-z0-9 _.:/=+@-]*", value)
    assert len(value) <= TAG_VALUE_LIMIT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("orders", QueueReference("orders")),
        ("or.ders", QueueReference("or-ders-e1420509")),
        (
            "arn:aws:sqs:eu-west-1:111122223333:orders.fifo",
            QueueReference("orders.fifo", account="111122223333", region="eu-west-1"),
        ),
        (
            "arn:aws-cn:sqs:cn-north-1:111122223333:orders",
            QueueReference("orders", account="111122223333", region="cn-north-1"),
        ),
        (
            "https://sqs.eu-west-1.amazonaws.com/111122223333/orders",
            QueueReference(
                "orders",
                account="111122223333",
                region="eu-west-1",
                url="https://sqs.eu-west-1.amazonaws.com/111122223333/orders",
            ),
        ),
        (
            "https://vpce-0a-1b.sqs.eu-west-1.vpce.amazonaws.com/111122223333/orders",
            QueueReference(
                "orders",
                account="111122223333",
                region="eu-west-1",
                url="https://vpce-0a-1b.sqs.eu-west-1.vpce.amazonaws.com/111122223333/orders",
            ),
        ),
        (
            "https://us-west-2.queue.amazonaws.com/111122223333/orders",
            QueueReference(
                "orders",
                account="111122223333",
                region="us-west-2",
                url="https://us-west-2.queue.amazonaws.com/111122223333/orders",
            ),
        ),
        (
            "http://127.0.0.1:4566/000000000000/orders",
            QueueReference("orders", account="000000000000", url="http://127.0.0.1:4566/000000000000/orders"),
        ),
    ],
)
def test_references(text: str, expected: QueueReference) -> None:
    assert parse_reference(text) == expected


def test_a_capture_cannot_leave_the_path_of_a_url() -> None:
    reference = parse_reference("https://sqs.eu-west-1.amazonaws.com/111122223333/a/../b?c")
    assert reference.url == f"https://sqs.eu-west-1.amazonaws.com/111122223333/{queue_name('a/../b?c')}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".fifo",
        "arn:aws:sns:eu-west-1:111122223333:orders",
        "arn:aws:sqs:eu-west-1:1111:orders",
        "arn:aws:sqs:eu-west-1:111122223333:",
        "https://sqs.eu-west-1.amazonaws.com/orders",
        "ftp://sqs.eu-west-1.amazonaws.com/111122223333/orders",
    ],
)
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$"):
        parse_reference(text)
