import pytest

from adapters.sqs.settings import DEFAULT_OPTIONS, SqsOptions, parse_target
from gateway.core.backend import Target
from gateway.core.errors import ConfigError
from gateway.core.message import Address, Message
from gateway.core.templates import Template

NO_NAMES: frozenset[str] = frozenset()
SITE = frozenset({"site"})


@pytest.mark.parametrize(
    "name",
    [
        "orders",
        "orders.fifo",
        "a" * 80,
        "arn:aws:sqs:eu-west-1:111122223333:orders.fifo",
        "https://sqs.eu-west-1.amazonaws.com/111122223333/orders",
        "orders-{site}",
        "{site}.fifo",
        "arn:aws:sqs:eu-west-1:111122223333:{site}",
    ],
)
def test_names(name: str) -> None:
    assert parse_target(name, {}, SITE) == Target(kind="sqs", name=name, options=DEFAULT_OPTIONS)


def test_options() -> None:
    target = parse_target(
        "orders-{site}.fifo",
        {"group_id": "{site}/{header:g}", "deduplication_id": "{property:message_id}", "attributes": ["a", "b.c", "a"]},
        SITE,
    )
    assert target.name == "orders-{site}.fifo"
    options = target.options
    assert isinstance(options, SqsOptions)
    assert options == SqsOptions(
        group_id=Template.parse("{site}/{header:g}", SITE),
        deduplication_id=Template.parse("{property:message_id}", SITE),
        attributes=("a", "b.c"),
    )
    assert options.group_id is not None
    message = Message(Address("", "q"), b"", headers={"g": "1"})
    assert options.group_id.render(message, {"site": "north"}) == "north/1"
    assert hash(target) == hash(parse_target("orders-{site}.fifo", _as_written(), SITE))


def _as_written() -> dict[str, object]:
    return {"group_id": "{site}/{header:g}", "deduplication_id": "{property:message_id}", "attributes": ["a", "b.c"]}


@pytest.mark.parametrize("name", ["orders.fifo", "{site}", "orders-{site}"])
def test_deduplication_where_the_queue_may_be_fifo(name: str) -> None:
    assert parse_target(name, {"deduplication_id": "{key}"}, SITE).options != DEFAULT_OPTIONS


@pytest.mark.parametrize(
    ("value", "options", "key", "words"),
    [
        ("", {}, "sqs", "name, ARN or URL"),
        (None, {}, "sqs", "name, ARN or URL"),
        (["orders"], {}, "sqs", "name, ARN or URL"),
        ("orders.new", {}, "sqs", "'orders.new' is not a name that SQS allows"),
        ("orders/{site}", {}, "sqs", "80 characters"),
        ("a" * 81, {}, "sqs", "80 characters"),
        (".fifo", {}, "sqs", "empty name"),
        ("orders-{where}", {}, "sqs", "where"),
        ("orders-{key}", {}, "sqs", "key"),
        ("orders-{site", {}, "sqs", "brace"),
        ("arn:aws:sns:eu-west-1:111122223333:orders", {}, "sqs", "ARN of an SQS queue"),
        ("arn:aws:sqs:eu-west-1:111122223333:or.ders", {}, "sqs", "not a name that SQS allows"),
        ("https://example.com/orders", {}, "sqs", "URL of an SQS queue"),
        ("orders", {"group": "x"}, "group", "group_id, deduplication_id, attributes"),
        ("orders", {"group_id": ""}, "group_id", "text"),
        ("orders", {"group_id": 7}, "group_id", "text"),
        ("orders", {"group_id": "{nope}"}, "group_id", "nope"),
        ("orders", {"deduplication_id": "{key}"}, "deduplication_id", ".fifo"),
        ("orders.fifo", {"deduplication_id": "{"}, "deduplication_id", "brace"),
        ("orders", {"attributes": "tenant"}, "attributes", "list"),
        ("orders", {"attributes": [1]}, "attributes", "list"),
        ("orders", {"attributes": ["a..b"]}, "attributes", "'a..b'"),
        ("orders", {"attributes": [".a"]}, "attributes", "'.a'"),
        ("orders", {"attributes": ["a."]}, "attributes", "'a.'"),
        ("orders", {"attributes": ["a\n"]}, "attributes", "cannot be the name"),
        ("orders", {"attributes": [""]}, "attributes", "cannot be the name"),
        ("orders", {"attributes": ["x" * 257]}, "attributes", "cannot be the name"),
        ("orders", {"attributes": ["AWS.x"]}, "attributes", "without the prefix"),
        ("orders", {"attributes": ["amazon.x"]}, "attributes", "without the prefix"),
        ("orders", {"attributes": ["mqlift.meta"]}, "attributes", "without the prefix"),
        ("orders", {"attributes": list("abcdefghi")}, "attributes", "9 headers are too many"),
    ],
)
def test_mistakes(value: object, options: dict[str, object], key: str, words: str) -> None:
    with pytest.raises(ConfigError) as mistake:
        parse_target(value, options, SITE)
    assert mistake.value.key == key
    assert words in str(mistake.value)
    assert "\n" not in str(mistake.value)


def test_eight_attributes_are_not_too_many() -> None:
    options = parse_target("orders", {"attributes": list("abcdefgha")}, NO_NAMES).options
    assert isinstance(options, SqsOptions)
    assert options.attributes == tuple("abcdefgh")
