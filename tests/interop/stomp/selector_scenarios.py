"""Selectors on queues, which a rule allows here for names that end in -selected, and on durable subscriptions."""

from __future__ import annotations

from typing import Final

from tests.interop.stomp.rabbitmq_scenarios import sends, subscribes
from tests.interop.stomp.scenarios import Scenario
from tests.interop.stomp.stage import Connection, Stage

SELECTED: Final = "/queue/{}-selected"
DURABLE: Final = "activemq.subscriptionName:{}-d"


def puts_colours(client: Connection, destination: str, *colours: str) -> None:
    for colour in colours:
        sends(client, destination, colour, f"colour:{colour}")


def complementary_consumers(stage: Stage) -> None:
    red, others, sender = stage.connects(), stage.connects(), stage.connects()
    subscribes(red, "0", SELECTED, "selector:colour = 'red'")
    subscribes(others, "0", SELECTED, "selector:colour <> 'red'")
    puts_colours(sender, SELECTED, "red", "blue", "red", "green")
    red.gets_in_any_order(2)
    others.gets_in_any_order(2)
    for client in (red, others, sender):
        client.leaves()


def what_no_consumer_takes(stage: Stage) -> None:
    first, sender = stage.connects(), stage.connects()
    puts_colours(sender, SELECTED, "blue", "red", "green")
    subscribes(first, "0", SELECTED, "selector:colour = 'red'")
    first.gets("MESSAGE")
    first.leaves()
    blue, everything = stage.connects(), stage.connects()
    subscribes(blue, "0", SELECTED, "selector:colour = 'blue'")
    blue.gets("MESSAGE")
    subscribes(everything, "0", SELECTED)
    everything.gets("MESSAGE")
    for client in (blue, everything, sender):
        client.leaves()


def a_slow_consumer_with_a_selector(stage: Stage) -> None:
    slow, quick, sender = stage.connects(), stage.connects(), stage.connects()
    subscribes(slow, "0", SELECTED, "selector:colour = 'red'", "ack:client-individual", "activemq.prefetchSize:1")
    subscribes(quick, "0", SELECTED, "selector:colour = 'blue'")
    puts_colours(sender, SELECTED, "red", "red", "blue", "red", "blue")
    quick.gets("MESSAGE", "MESSAGE")
    for _ in range(3):
        slow.gets("MESSAGE")
        slow.has_nothing_more()
        slow.acknowledges("ACK", "1.2", "receipt:acked")
        slow.gets("RECEIPT")
    for client in (slow, quick, sender):
        client.leaves()


def a_consumer_with_a_selector_and_one_without(stage: Stage) -> None:
    red, everything, sender = stage.connects(), stage.connects(), stage.connects()
    subscribes(red, "0", SELECTED, "selector:colour = 'red'")
    subscribes(everything, "0", SELECTED)
    puts_colours(sender, SELECTED, "blue", "green")
    everything.gets("MESSAGE", "MESSAGE")
    for client in (red, everything, sender):
        client.leaves()


def by_correlation_id(stage: Stage) -> None:
    """As requesters do that share a queue for their answers."""
    first, second, sender = stage.connects(), stage.connects(), stage.connects()
    subscribes(first, "0", SELECTED, "selector:JMSCorrelationID = '1'")
    subscribes(second, "0", SELECTED, "selector:JMSCorrelationID = '2'")
    sends(sender, SELECTED, "two", "correlation-id:2")
    sends(sender, SELECTED, "one", "correlation-id:1")
    first.gets("MESSAGE")
    second.gets("MESSAGE")
    for client in (first, second, sender):
        client.leaves()


def wrong_selector_on_a_queue(stage: Stage) -> None:
    client = stage.connects()
    client.sends("SUBSCRIBE", "id:0", f"destination:{SELECTED}", "selector:colour =", "receipt:sub-0")
    client.gets("RECEIPT")
    client.cut()


def selective_durable_subscription(stage: Stage) -> None:
    identity = stage.named("client-id:{}-c")
    wanted = "selector:colour = 'red'"
    sender = stage.connects()
    first = stage.connects("1.2", identity)
    subscribes(first, "0", "/topic/{}", DURABLE, wanted)
    puts_colours(sender, "/topic/{}", "blue", "red")
    first.gets("MESSAGE")
    first.leaves()
    puts_colours(sender, "/topic/{}", "red", "blue")
    second = stage.connects("1.2", identity)
    subscribes(second, "0", "/topic/{}", DURABLE, wanted)
    puts_colours(sender, "/topic/{}", "green", "red")
    second.gets_in_any_order(2)
    for client in (second, sender):
        client.leaves()


def another_selector_of_a_durable_subscription(stage: Stage) -> None:
    identity = stage.named("client-id:{}-c")
    sender = stage.connects()
    for number, selector in enumerate((["selector:colour = 'red'"], ["selector:colour = 'blue'"], [])):
        stage.notes(str(selector))
        client = stage.connects("1.2", identity)
        subscribes(client, "0", "/topic/{}", DURABLE, *selector)
        puts_colours(sender, "/topic/{}", "red", "blue")
        client.gets_in_any_order(2 if number == 2 else 1)
        client.leaves()
        puts_colours(sender, "/topic/{}", "red", "blue")  # and nobody gets it
    sender.leaves()


SELECTORS: Final[tuple[Scenario, ...]] = (
    complementary_consumers,
    what_no_consumer_takes,
    a_slow_consumer_with_a_selector,
    a_consumer_with_a_selector_and_one_without,
    by_correlation_id,
    wrong_selector_on_a_queue,
    selective_durable_subscription,
    another_selector_of_a_durable_subscription,
)
