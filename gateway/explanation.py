"""What `mqlift check --explain` says of prices: the ways of fan-out to queues and readers, and what selectors cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from gateway.assembly import Assembly
from gateway.core.backend import Target
from gateway.core.fanout import Subscriber
from gateway.core.routes import Matched, QueueMatch

# US dollars for a million requests in us-east-1, each of up to 64 KB; a batch is one request for each 64 KB begun
# (https://aws.amazon.com/sqs/pricing/, https://aws.amazon.com/sns/pricing/). SNS hands over to SQS without charge.
SQS_PRICE: Final = 0.40
SQS_FIFO_PRICE: Final = 0.50
SNS_PRICE: Final = 0.50
BATCH: Final = 10
"""Messages of one request, at most."""

EXAMPLE_QUEUES: Final = 10
EXAMPLE_UNWANTED: Final = 1_000
MONTH: Final = 30 * 86_400
"""Seconds."""

# US dollars in us-east-1 (https://aws.amazon.com/kinesis/data-streams/pricing/): for each shard and registered consumer
# in provisioned streams; for each GB that is brought, or read.
SHARD_HOUR_PRICE: Final = 0.015
PUSHED_GB_PRICE: Final = 0.013
ON_DEMAND_PUSHED_GB_PRICE: Final = 0.05
ON_DEMAND_READ_GB_PRICE: Final = 0.04
MONTH_HOURS: Final = 730


def topic_lines(matched: Matched, subscribers: Mapping[str, Subscriber]) -> Iterator[str]:
    """For what is published where a rule asks for fan-out."""
    for target in matched.targets():
        if target.fanout is not None:
            yield from _way_lines(target, subscribers[target.kind])


def _way_lines(target: Target, subscriber: Subscriber) -> Iterator[str]:
    wait = f"{subscriber.wait / 60:.0f} minutes" if subscriber.wait >= 60 else f"{subscriber.wait:.0f} s"
    yield f"  fan-out: {target.kind} {target.name} brings messages to the queues in SQS that are bound here,"
    yield f"    {subscriber.limit} at most, each {wait} after its first message; --explain queue:NAME tells which can"
    yield "    the gateway sends to all others: FIFO, in memory, in another account, with priorities or a length"
    yield f"    a million messages to {EXAMPLE_QUEUES} queues, besides what consuming costs (the same either way):"
    gateway = SNS_PRICE + EXAMPLE_QUEUES * SQS_PRICE
    yield f"      fan-out   {_prices(SNS_PRICE)}: published once"
    yield f"      gateway   {_prices(gateway)}: published once, and sent to each queue"


def push_lines(target: Target) -> Iterator[str]:
    """For a stream that records are brought from."""
    if not target.pushed:
        return
    names = ", ".join(target.pushed)
    who = f"live subscribers, as the consumer {names}," if target.tail else f"consumers named {names}"
    month = SHARD_HOUR_PRICE * MONTH_HOURS
    yield f"    enhanced fan-out: {who} get records some 70 ms after they were written;"
    yield "      others read twice a second, and share five reads and 2 MiB a second of each shard"
    yield f"      provisioned: ${SHARD_HOUR_PRICE:.3f} an hour (${month:.2f} a month) for each shard and name, and"
    yield f"        ${PUSHED_GB_PRICE:.3f} for each GB brought; reading costs nothing"
    on_demand = f"${ON_DEMAND_PUSHED_GB_PRICE:.2f} for each GB brought, ${ON_DEMAND_READ_GB_PRICE:.2f} where it is read"
    yield f"      on demand: {on_demand}"


def queue_lines(home: Target, assembly: Assembly, subscribers: Mapping[str, Subscriber]) -> Iterator[str]:
    """For a queue, which may be bound to any exchange or topic that a rule asks fan-out for."""
    for rule in assembly.routes.rules:
        for each in rule.targets:
            topic = each.target
            if topic.fanout is None or isinstance(rule.match, QueueMatch):
                continue
            objection = subscribers[topic.kind].objection(topic, home)
            way = f"the gateway sends to it: {objection}" if objection else f"{topic.kind} {topic.name} brings messages"
            yield f"  fan-out of {rule.key}, if bound to {rule.match}: {way}"
            if home.kind != "sqs":
                continue
            price = SQS_FIFO_PRICE if home.name.endswith(".fifo") else SQS_PRICE
            yield f"    a million messages: {_prices(price)} by the gateway" + (
                "" if objection else ", $0.00 by fan-out"
            )


def selector_lines(home: Target) -> Iterator[str]:
    """For a queue whose consumers may have selectors."""
    if home.pass_over is None:
        return
    # A pass takes a part of a receive, and of a change of visibility.
    price = 2 * SQS_PRICE
    passes = EXAMPLE_UNWANTED * MONTH / home.pass_over
    yield f"  selectors: what no consumer takes is passed over: hidden for {home.pass_over:g} s, then looked at again"
    yield "    a pass is a receive and a change of visibility, and counts as a delivery: no redrive policy and no"
    yield "    x-delivery-limit may bury messages; they come as redelivered. What is taken at once costs nothing more"
    yield f"    a million passes: {_prices(price)}"
    yield f"    {EXAMPLE_UNWANTED:,} messages that nobody takes, {passes / 1e6:.1f} million passes a month: " + _prices(
        price * passes / 1e6
    )


def _prices(price: float) -> str:
    """From full batches to single messages."""
    return f"${price / BATCH:.2f} to ${price:.2f}"
