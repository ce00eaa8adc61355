"""What only ActiveMQ's dialect has."""

from __future__ import annotations

import time
from typing import Final

from tests.interop.stomp.rabbitmq_scenarios import sends, subscribes
from tests.interop.stomp.scenarios import QUEUE, Scenario, asks_for, puts, refused, what_is_left
from tests.interop.stomp.stage import Stage


def topic_wildcards(stage: Stage) -> None:
    client = stage.connects()
    for number, pattern in enumerate(("{}.a.*", "{}.>", "{}.a.b")):
        subscribes(client, str(number), f"/topic/{pattern}")
    for key in ("{}.a.b", "{}.c"):
        sends(client, f"/topic/{key}", key)
    client.gets_in_any_order(4)
    client.leaves()


def queue_wildcards(stage: Stage) -> None:
    client = stage.connects()
    subscribes(client, "0", "/queue/{}.*")
    for name in "ab":
        sends(client, f"/queue/{{}}.{name}", name)
        client.gets("MESSAGE")
    client.leaves()
    refused(stage, "SEND", "destination:/queue/{}.*")
    refused(stage, "SEND", "destination:/topic/{}.>")


def composite_destinations(stage: Stage) -> None:
    client = stage.connects()
    subscribes(client, "q1", "/queue/{}.1")
    subscribes(client, "q2", "/queue/{}.2")
    subscribes(client, "t", "/topic/{}.3")
    sends(client, "/queue/{}.1,/queue/{}.2,/topic/{}.3", "x")
    client.gets_in_any_order(3)
    sends(client, "/queue/{}.1,{}.2", "y")
    client.gets_in_any_order(2)
    client.leaves()
    both = stage.connects()
    subscribes(both, "both", "/queue/{}.1,/queue/{}.2")
    sends(both, "/queue/{}.1", "z")
    both.gets("MESSAGE")
    both.leaves()


def durable_subscription(stage: Stage) -> None:
    for name in ("activemq.subscriptionName", "durable-subscription-name"):
        stage.notes(name)
        topic, durable = f"/topic/{{}}.{name}", f"{name}:{{}}-durable"
        identity = stage.named(f"client-id:{{}}-{name}")
        first = stage.connects("1.2", identity)
        subscribes(first, "0", topic, durable)
        first.leaves()
        other = stage.connects()
        sends(other, topic, "missed")
        other.leaves()
        second = stage.connects("1.2", identity)
        subscribes(second, "0", topic, durable)
        sends(second, topic, "live")
        if second.gets("MESSAGE").body != b"missed":
            second.cut()
            continue
        second.gets("MESSAGE")
        second.sends("UNSUBSCRIBE", "id:0", "receipt:left")
        second.gets("RECEIPT")
        sends(second, topic, "kept")
        subscribes(second, "0", topic, durable)
        second.gets("MESSAGE")
        second.sends("UNSUBSCRIBE", "id:0", "receipt:left")
        second.gets("RECEIPT")
        second.sends("UNSUBSCRIBE", "id:0", durable, "receipt:gone")
        second.gets("RECEIPT")
        sends(second, topic, "unheard")
        subscribes(second, "0", topic, durable)
        sends(second, topic, "last")
        second.gets("MESSAGE")
        second.leaves()


def durable_subscription_refused(stage: Stage) -> None:
    refused(stage, "SUBSCRIBE", "id:0", "destination:/topic/{}", "activemq.subscriptionName:d")
    identity = stage.named("client-id:{}-c")
    client = stage.connects("1.2", identity)
    subscribes(client, "0", "/queue/{}", "activemq.subscriptionName:d")
    client.sends("UNSUBSCRIBE", "id:0", "activemq.subscriptionName:never", "receipt:gone")
    client.gets("RECEIPT")
    client.leaves()


def durable_subscription_of_another_topic(stage: Stage) -> None:
    identity, name = stage.named("client-id:{}-changes"), "activemq.subscriptionName:n"
    for topic, others in (("{}.old", "{}.new"), ("{}.new", "{}.old"), ("{}.old", "{}.new")):
        stage.notes(topic)
        client = stage.connects("1.2", identity)
        subscribes(client, "0", f"/topic/{topic}", name)
        for key in (others, topic):
            sends(client, f"/topic/{key}", f"while {topic} is subscribed to")
        client.gets("MESSAGE")
        client.sends("UNSUBSCRIBE", "id:0", "receipt:left")
        client.gets("RECEIPT")
        sends(client, f"/topic/{topic}", f"waits for the subscriber of {topic}")
        client.leaves()


def one_durable_subscriber_of_a_name(stage: Stage) -> None:
    client = stage.connects("1.2", stage.named("client-id:{}-once"))
    for number, topic in enumerate(("{}.a", "{}.b")):
        client.sends(
            "SUBSCRIBE", f"id:{number}", f"destination:/topic/{topic}", "activemq.subscriptionName:n", "receipt:s"
        )
        client.gets("RECEIPT")


def one_client_id_twice(stage: Stage) -> None:
    first = stage.connects("1.2", stage.named("client-id:{}-c"))
    second = stage.opens()
    second.sends("CONNECT", "accept-version:1.2", "host:/", "login:guest", "passcode:guest", "client-id:{}-c")
    second.gets("CONNECTED")
    first.leaves()
    stage.connects("1.2", stage.named("client-id:{}-c")).leaves()


def virtual_topics(stage: Stage) -> None:
    client = stage.connects()
    for consumer in ("A", "B"):
        subscribes(client, consumer, f"/queue/Consumer.{{}}{consumer}.VirtualTopic.{{}}", "ack:client-individual")
    subscribes(client, "live", "/topic/VirtualTopic.{}")
    sends(client, "/topic/VirtualTopic.{}", "x")
    client.gets_in_any_order(3)
    client.leaves()
    later = stage.connects()
    sends(later, "/topic/VirtualTopic.{}", "y")
    subscribes(later, "A", "/queue/Consumer.{}A.VirtualTopic.{}")
    later.gets("MESSAGE", "MESSAGE")
    later.leaves()


def selectors_on_topics(stage: Stage) -> None:
    client = stage.connects()
    subscribes(client, "0", "/topic/{}", "selector:colour = 'red' AND weight > 2")
    for colour, weight in (("red", 1), ("blue", 5), ("red", 3)):
        sends(client, "/topic/{}", f"{colour} {weight}", f"colour:{colour}", f"weight:{weight}")
    subscribes(client, "1", "/topic/{}", "selector:colour LIKE 'r%' OR JMSPriority > 6")
    for lines in (["colour:blue"], ["colour:rose"], ["priority:8"]):
        sends(client, "/topic/{}", str(lines), *lines)
    for _ in range(2):
        client.gets("MESSAGE")
    client.leaves()


def numeric_selectors(stage: Stage) -> None:
    client = stage.connects()
    subscribes(client, "0", "/topic/{}", "selector:weight = '3'")
    subscribes(client, "1", "/topic/{}", "selector:colour = 'red'")
    sends(client, "/topic/{}", "x", "colour:red", "weight:3")
    client.gets_in_any_order(2)
    client.leaves()


def wrong_selectors(stage: Stage) -> None:
    for selector in ("colour =", "'", "a LIKE 5", "", "1 + 1"):
        refused(stage, "SUBSCRIBE", "id:0", "destination:/topic/{}", f"selector:{selector}")


def selectors_on_queues(stage: Stage) -> None:
    client = stage.connects()
    subscribes(client, "0", "/queue/{}", "selector:colour = 'red'")
    sends(client, "/queue/{}", "blue", "colour:blue")
    sends(client, "/queue/{}", "red", "colour:red")
    client.gets("MESSAGE")
    client.leaves()


def message_groups(stage: Stage) -> None:
    client = stage.connects()
    asks_for(client)
    sends(client, "/queue/{}", "x", "JMSXGroupID:g", "JMSXGroupSeq:1")
    client.gets("MESSAGE")
    client.leaves()


def scheduled_delivery(stage: Stage) -> None:
    client = stage.connects()
    asks_for(client)
    sent = time.monotonic()
    sends(client, "/queue/{}", "late", "AMQ_SCHEDULED_DELAY:1000")
    sends(client, "/queue/{}", "soon")
    client.gets("MESSAGE", "MESSAGE")
    stage.says("-", f"after a second: {time.monotonic() - sent >= 1.0}")
    client.leaves()
    for line in ("AMQ_SCHEDULED_DELAY:soon", "AMQ_SCHEDULED_CRON:* * * *", "AMQ_SCHEDULED_PERIOD:1000"):
        refused(stage, "SEND", QUEUE, line)


def messages_that_expire(stage: Stage) -> None:
    client = stage.connects()
    sends(client, "/queue/{}", "gone", "expires:1600000000000")
    sends(client, "/queue/{}", "stays", "expires:4000000000000")
    asks_for(client)
    while client.gets("MESSAGE").body not in (b"stays", b""):
        pass
    client.leaves()
    refused(stage, "SEND", QUEUE, "expires:soon")


def properties(stage: Stage) -> None:
    client = stage.connects()
    asks_for(client)
    for lines in (
        ["persistent:true"],
        ["persistent:false"],
        ["priority:7"],
        ["priority:12"],
        ["correlation-id:c-1", "type:order"],
        ["reply-to:/topic/answers"],
        ["reply-to:/temp-queue/answers"],
        ["content-type:text/plain"],
        ["timestamp:1600000000000"],
        ["id:7", "ack:auto", "durable:true", "selector:none"],
        ["transformation:jms-map-json"],
        ["amq-msg-type:text", "content-length:1"],
    ):
        stage.notes(str(lines))
        sends(client, "/queue/{}", "x", *lines)
        client.gets("MESSAGE")
    client.leaves()


def wrong_properties(stage: Stage) -> None:
    for line in ("priority:high", "persistent:maybe", "timestamp:now", "reply-to:nowhere", "destination:/nothing/"):
        refused(stage, "SEND", QUEUE, line)


def prefetch(stage: Stage) -> None:
    client = stage.connects()
    puts(client, "1", "2", "3")
    asks_for(client, "0", "client-individual", "activemq.prefetchSize:1")
    for _ in range(3):
        client.gets("MESSAGE")
        client.has_nothing_more()
        client.acknowledges("ACK", "1.2", "receipt:acked")
        client.gets("RECEIPT")
    client.leaves()
    for value in ("abc", "-1", "0"):
        refused(stage, "SUBSCRIBE", "id:0", QUEUE, f"activemq.prefetchSize:{value}")


def cumulative_nack(stage: Stage) -> None:
    client = stage.connects()
    puts(client, "1", "2", "3")
    asks_for(client, "0", "client")
    frames = [client.gets("MESSAGE") for _ in range(3)]
    client.acknowledges("NACK", "1.2", "receipt:nacked", frame=frames[1])
    client.gets("RECEIPT")
    client.leaves()
    what_is_left(stage)


def request_and_reply(stage: Stage) -> None:
    for kind in ("queue", "topic"):
        stage.notes(kind)
        asker, answerer = stage.connects(), stage.connects()
        subscribes(answerer, "0", f"/queue/{{}}-{kind}")
        subscribes(asker, "temp", f"/temp-{kind}/answers")
        sends(asker, f"/queue/{{}}-{kind}", "question", f"reply-to:/temp-{kind}/answers", "correlation-id:c-1")
        reply_to = answerer.gets("MESSAGE").header("reply-to")
        stage.says("-", f"remote: {reply_to.startswith(f'/remote-temp-{kind}/')}")
        answerer.sends("SEND", f"destination:{reply_to}", "correlation-id:c-1", "receipt:answered", body=b"answer")
        answerer.gets("RECEIPT")
        asker.gets("MESSAGE")
        answerer.leaves()
        asker.leaves()


def temporary_destinations(stage: Stage) -> None:
    for command in ("SEND", "SUBSCRIBE"):
        for destination in ("/temp-queue/{}", "/temp-topic/{}", "/remote-temp-queue/none", "/temp-queue/"):
            refused(stage, command, "id:0", f"destination:{destination}")


def browsing(stage: Stage) -> None:
    client = stage.connects()
    puts(client, "1", "2")
    subscribes(client, "0", "/queue/{}", "browser:true")
    client.gets("MESSAGE", "MESSAGE", "MESSAGE")
    client.leaves()
    what_is_left(stage)


def subscription_options(stage: Stage) -> None:
    for line in (
        "activemq.exclusive:true",
        "activemq.priority:5",
        "activemq.noLocal:true",
        "no-local:true",
        "activemq.dispatchAsync:false",
        "activemq.maximumPendingMessageLimit:5",
        "activemq.retroactive:true",
    ):
        refused(stage, "SUBSCRIBE", "id:0", "destination:/topic/{}", line)


def no_local(stage: Stage) -> None:
    for line in ("no-local:true", "activemq.noLocal:true", "activemq.noLocal:false"):
        stage.notes(line)
        client, other = stage.connects(), stage.connects()
        subscribes(client, "0", "/topic/{}", line)
        sends(client, "/topic/{}", "own")
        sends(other, "/topic/{}", "another's")
        client.gets("MESSAGE")
        other.leaves()
        client.leaves()


def no_local_queue(stage: Stage) -> None:
    refused(stage, "SUBSCRIBE", "id:0", QUEUE, "activemq.noLocal:true")


def exclusive_consumers(stage: Stage) -> None:
    other, first, second = stage.connects(), stage.connects(), stage.connects()
    asks_for(other)
    for client in (first, second):
        asks_for(client, "0", "client", "activemq.exclusive:true")
    puts(other, "1", "2")
    first.gets_in_any_order(2)
    first.leaves()
    second.gets_in_any_order(2)
    second.leaves()
    other.gets_in_any_order(2)
    other.leaves()


def retroactive_consumers(stage: Stage) -> None:
    client = stage.connects()
    sends(client, "/topic/{}", "before")
    subscribes(client, "0", "/topic/{}", "activemq.retroactive:true")
    sends(client, "/topic/{}", "after")
    client.gets("MESSAGE")
    client.leaves()


def advisories(stage: Stage) -> None:
    refused(stage, "SUBSCRIBE", "id:0", "destination:/topic/ActiveMQ.Advisory.Queue")


ACTIVEMQ: Final[tuple[Scenario, ...]] = (
    topic_wildcards,
    queue_wildcards,
    composite_destinations,
    durable_subscription,
    durable_subscription_refused,
    durable_subscription_of_another_topic,
    one_durable_subscriber_of_a_name,
    one_client_id_twice,
    virtual_topics,
    selectors_on_topics,
    numeric_selectors,
    wrong_selectors,
    selectors_on_queues,
    message_groups,
    scheduled_delivery,
    messages_that_expire,
    properties,
    wrong_properties,
    prefetch,
    cumulative_nack,
    request_and_reply,
    temporary_destinations,
    browsing,
    subscription_options,
    no_local,
    no_local_queue,
    exclusive_consumers,
    retroactive_consumers,
    advisories,
)
