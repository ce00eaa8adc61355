"""What only RabbitMQ's dialect has."""

from __future__ import annotations

from typing import Final

from tests.interop.stomp.scenarios import QUEUE, Scenario, asks_for, puts, refused, what_is_left
from tests.interop.stomp.stage import Connection, Stage


def subscribes(client: Connection, number: str, destination: str, *headers: str) -> None:
    client.sends("SUBSCRIBE", f"id:{number}", f"destination:{destination}", f"receipt:sub-{number}", *headers)
    client.gets("RECEIPT")


def sends(client: Connection, destination: str, body: str, *headers: str) -> None:
    client.sends("SEND", f"destination:{destination}", "receipt:sent", *headers, body=body.encode())
    client.gets("RECEIPT")


def topic_patterns(stage: Stage) -> None:
    client = stage.connects()
    for number, pattern in enumerate(("{}.a.*", "{}.#", "{}.a.b")):
        subscribes(client, str(number), f"/topic/{pattern}")
    for key in ("{}.a.b", "{}.c", "{}"):
        sends(client, f"/topic/{key}", key)
    client.gets_in_any_order(5)
    client.leaves()


def exchanges(stage: Stage) -> None:
    client = stage.connects()
    for number, destination in enumerate(
        ("/exchange/amq.topic/{}.#", "/exchange/amq.fanout", "/exchange/amq.direct/{}")
    ):
        subscribes(client, str(number), destination)
    for destination in ("/exchange/amq.topic/{}.x", "/exchange/amq.fanout", "/exchange/amq.direct/{}"):
        sends(client, destination, "x")
        client.gets("MESSAGE")
    client.leaves()


def bad_exchanges(stage: Stage) -> None:
    for command in ("SEND", "SUBSCRIBE"):
        for destination in (
            "/exchange/{}/key",
            "/exchange/",
            "/exchange//key",
            "/exchange/a/b/c",
            "/exchange/amq.default/k",
        ):
            refused(stage, command, "id:0", f"destination:{destination}")


def existing_queues(stage: Stage) -> None:
    for command in ("SEND", "SUBSCRIBE"):
        refused(stage, command, "id:0", "destination:/amq/queue/{}-missing")
    client = stage.connects()
    puts(client, "declared")
    subscribes(client, "0", "/amq/queue/{}")
    client.gets("MESSAGE")
    sends(client, "/amq/queue/{}", "again")
    client.gets("MESSAGE")
    client.leaves()


def slashes_in_names(stage: Stage) -> None:
    client = stage.connects()
    subscribes(client, "0", "/queue/{}%2Fa%20b")
    sends(client, "/queue/{}%2Fa%20b", "x")
    client.gets("MESSAGE")
    client.leaves()


def negative_acknowledgements(stage: Stage) -> None:
    for requeue in ("requeue:true", "requeue:false", "requeue:maybe"):
        stage.notes(requeue)
        client = stage.connects()
        puts(client, "1")
        asks_for(client, "0", "client-individual")
        client.gets("MESSAGE")
        client.acknowledges("NACK", "1.2", "receipt:nacked", requeue)
        client.gets("RECEIPT")
        client.cut()
        what_is_left(stage)


def cumulative_nack(stage: Stage) -> None:
    client = stage.connects()
    puts(client, "1", "2", "3")
    asks_for(client, "0", "client")
    frames = [client.gets("MESSAGE") for _ in range(3)]
    client.acknowledges("NACK", "1.2", "receipt:nacked", "requeue:false", frame=frames[1])
    client.gets("RECEIPT")
    client.leaves()
    what_is_left(stage)


def prefetch(stage: Stage) -> None:
    client = stage.connects()
    puts(client, "1", "2", "3")
    asks_for(client, "0", "client-individual", "prefetch-count:1")
    for _ in range(3):
        client.gets("MESSAGE")
        client.has_nothing_more()
        client.acknowledges("ACK", "1.2")
    client.leaves()
    for value in ("abc", "-1", "0"):
        refused(stage, "SUBSCRIBE", "id:0", QUEUE, f"prefetch-count:{value}")


def properties(stage: Stage) -> None:
    client = stage.connects()
    asks_for(client)
    for lines in (
        ["content-type:text/plain", "content-encoding:gzip", "correlation-id:c-1", "priority:7", "persistent:true"],
        ["reply-to:/queue/answers"],
        ["reply-to:/topic/answers"],
        ["reply-to:plain"],
        ["expiration:60000"],
        ["amqp-message-id:mine"],
        ["timestamp:1600000000"],
        ["type:order", "user-id:guest", "app-id:app"],
        ["x-own:mine", "selector:none", "ack:auto", "id:7", "durable:true"],
    ):
        stage.notes(str(lines))
        sends(client, QUEUE.removeprefix("destination:"), "x", *lines)
        client.gets("MESSAGE")
    client.leaves()


def wrong_properties(stage: Stage) -> None:
    for line in ("priority:high", "timestamp:now", "expiration:soon", "persistent:maybe", "user-id:somebody"):
        refused(stage, "SEND", QUEUE, line)


def queue_arguments(stage: Stage) -> None:
    arguments = (
        "x-dead-letter-exchange:amq.topic",
        "x-dead-letter-routing-key:{}.dead",
        "x-message-ttl:60000",
        "x-max-length:10",
        "x-max-priority:5",
        "x-expires:600000",
        "durable:true",
        "auto-delete:false",
    )
    client = stage.connects()
    subscribes(client, "dead", "/topic/{}.dead")
    client.sends("SUBSCRIBE", "id:0", QUEUE, "ack:client-individual", "receipt:sub", *arguments)
    client.gets("RECEIPT")
    client.sends("SEND", QUEUE, *arguments, "receipt:sent", body=b"x")
    client.gets("RECEIPT", "MESSAGE")
    client.acknowledges("NACK", "1.2", "requeue:false")
    client.gets("MESSAGE")
    client.leaves()
    refused(stage, "SUBSCRIBE", "id:0", QUEUE)
    refused(stage, "SEND", QUEUE)


def other_kinds_of_queues(stage: Stage) -> None:
    for headers in (["durable:false"], ["auto-delete:true"], ["exclusive:true"], ["durable:false", "auto-delete:true"]):
        refused(stage, "SUBSCRIBE", "id:0", "destination:/queue/{}-" + str(len(headers[0])), *headers)
    for value in ("x-message-ttl:soon", "x-max-length:many", "x-queue-type:quorum"):
        refused(stage, "SUBSCRIBE", "id:0", "destination:/queue/{}-wrong", value)


def named_topic_queue(stage: Stage) -> None:
    first = stage.connects()
    subscribes(first, "0", "/topic/{}", "x-queue-name:{}-named", "durable:true", "auto-delete:false")
    first.leaves()
    second = stage.connects()
    sends(second, "/topic/{}", "missed")
    subscribes(second, "1", "/amq/queue/{}-named")
    second.gets("MESSAGE")
    second.leaves()


def durable_subscription(stage: Stage) -> None:
    durable = ("durable:true", "auto-delete:false")
    for headers in (durable, ("persistent:true",)):
        stage.notes(str(headers))
        topic = f"/topic/{{}}.{len(headers)}"
        first = stage.connects()
        subscribes(first, "{}-durable", topic, *headers)
        first.leaves()
        other = stage.connects()
        sends(other, topic, "missed")
        other.leaves()
        second = stage.connects()
        subscribes(second, "{}-durable", topic, *headers)
        if headers == durable:  # the other one is as durable as any exclusive queue: as long as its connection
            second.gets("MESSAGE")
        second.sends("UNSUBSCRIBE", "id:{}-durable", *headers, "receipt:gone")
        second.gets("RECEIPT")
        sends(second, topic, "unheard")
        subscribes(second, "{}-durable", topic, *headers)
        sends(second, topic, "last")
        second.gets("MESSAGE")
        second.sends("UNSUBSCRIBE", "id:{}-durable", *headers, "receipt:gone")
        second.gets("RECEIPT")
        second.leaves()


def durable_subscription_without_id(stage: Stage) -> None:
    refused(stage, "SUBSCRIBE", "destination:/topic/{}", "durable:true", "auto-delete:false")


def request_and_reply(stage: Stage) -> None:
    asker, answerer = stage.connects(), stage.connects()
    subscribes(answerer, "0", "/queue/{}")
    sends(asker, "/queue/{}", "question", "reply-to:/temp-queue/answers", "correlation-id:c-1")
    reply_to = answerer.gets("MESSAGE").header("reply-to")
    stage.says("-", f"reply-to starts with /reply-queue/: {reply_to.startswith('/reply-queue/')}")
    answerer.sends("SEND", f"destination:{reply_to}", "correlation-id:c-1", "receipt:answered", body=b"answer")
    answerer.gets("RECEIPT")
    asker.gets("MESSAGE")
    sends(asker, "/queue/{}", "again", "reply-to:/temp-queue/answers")
    same = answerer.gets("MESSAGE").header("reply-to")
    stage.says("-", f"the same queue: {same == reply_to}")
    answerer.leaves()
    asker.leaves()


def temporary_destinations(stage: Stage) -> None:
    for command in ("SEND", "SUBSCRIBE"):
        for destination in ("/temp-queue/{}", "/reply-queue/amq.gen-none", "/temp-queue/", "/temp-topic/x"):
            refused(stage, command, "id:0", f"destination:{destination}")


def selectors(stage: Stage) -> None:
    for destination in ("/queue/{}", "/topic/{}"):
        refused(stage, "SUBSCRIBE", "id:0", f"destination:{destination}", "selector:a = 1")


def priorities(stage: Stage) -> None:
    client = stage.connects()
    for priority in (1, 5, 9):
        sends(client, "/queue/{}", str(priority), f"priority:{priority}", "x-max-priority:9")
    subscribes(client, "0", "/queue/{}", "x-max-priority:9", "ack:client", "prefetch-count:10")
    for _ in range(3):
        client.gets("MESSAGE")
    client.acknowledges("ACK", "1.2")
    client.leaves()


def messages_that_expire(stage: Stage) -> None:
    client = stage.connects()
    sends(client, "/queue/{}", "gone", "expiration:0")
    sends(client, "/queue/{}", "stays")
    subscribes(client, "0", "/queue/{}")
    while client.gets("MESSAGE").body not in (b"stays", b""):
        pass
    client.leaves()


RABBITMQ: Final[tuple[Scenario, ...]] = (
    topic_patterns,
    exchanges,
    bad_exchanges,
    existing_queues,
    slashes_in_names,
    negative_acknowledgements,
    cumulative_nack,
    prefetch,
    properties,
    wrong_properties,
    queue_arguments,
    other_kinds_of_queues,
    named_topic_queue,
    durable_subscription,
    durable_subscription_without_id,
    request_and_reply,
    temporary_destinations,
    selectors,
    priorities,
    messages_that_expire,
)
