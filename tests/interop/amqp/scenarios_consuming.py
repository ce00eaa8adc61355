"""Consumers: deliveries, acknowledgements, prefetch, and what ends them."""

from __future__ import annotations

from pamqp.commands import Basic, Channel, Queue

from tests.interop.amqp.peer import METHOD, PeerChannel
from tests.interop.amqp.scenario import Group, Run

scenario = Group("consuming")


def filled(run: Run, bodies: list[str], base: str = "q", **details: object) -> str:
    """A queue with messages, which a connection of its own has published one by one."""
    publisher = run.channel(confirms=True)
    name = run.queue(publisher, base, **details)
    publisher.publish_all(name, bodies)
    return name


def subscribe(channel: PeerChannel, queue: str, *, prefetch: int = 0, tag: str = "c", no_ack: bool = False) -> None:
    if prefetch:
        channel.call(Basic.Qos(prefetch_count=prefetch), quiet=True)
    channel.call(Basic.Consume(queue=queue, consumer_tag=tag, no_ack=no_ack), quiet=True)


@scenario
def consume_and_acknowledge(run: Run) -> None:
    name = filled(run, ["one", "two", "three"])
    channel = run.channel()
    channel.call(Basic.Consume(queue=name, consumer_tag="c"))
    channel.deliveries(3)
    channel.send(Basic.Ack(1))
    channel.send(Basic.Ack(3, multiple=True))
    channel.call(Queue.Declare(queue=name, passive=True))
    channel.call(Channel.Close(200, "", 0, 0))
    run.channel().depth(name, 0)


@scenario
def consume_without_acknowledgements(run: Run) -> None:
    name = filled(run, ["one", "two"])
    channel = run.channel()
    channel.call(Basic.Consume(queue=name, consumer_tag="c", no_ack=True))
    channel.deliveries(2)
    channel.call(Channel.Close(200, "", 0, 0))
    run.channel().depth(name, 0)


@scenario
def tag_of_the_server(run: Run) -> None:
    name = filled(run, ["one"])
    channel = run.channel()
    channel.call(Basic.Consume(queue=name))
    channel.deliveries(1)


@scenario
def tag_that_is_taken(run: Run) -> None:
    connection = run.connect()
    channel = connection.channel()
    name = run.queue(channel)
    channel.call(Basic.Consume(queue=name, consumer_tag="c"))
    connection.channel(2).call(Basic.Consume(queue=name, consumer_tag="c"))  # tags are a channel's own
    channel.call(Basic.Consume(queue=name, consumer_tag="c"))


@scenario
def cancel(run: Run) -> None:
    channel = run.channel(confirms=True)
    name = run.queue(channel)
    subscribe(channel, name)
    channel.publish_all(name, ["one"])
    channel.deliveries(1)
    channel.call(Basic.Cancel(consumer_tag="c"))
    channel.send(Basic.Ack(1))  # what was delivered can still be acknowledged
    channel.publish(name, "two")
    channel.depth(name, 1)
    channel.call(Basic.Cancel(consumer_tag="unknown"))


@scenario
def get(run: Run) -> None:
    name = filled(run, ["one", "two", "three"])
    channel = run.channel()
    channel.depth(name, 3)
    channel.call(Basic.Get(queue=name))
    channel.call(Basic.Get(queue=name, no_ack=True))
    channel.send(Basic.Ack(1))
    channel.call(Basic.Get(queue=name))
    channel.call(Basic.Get(queue=name))
    channel.send(Basic.Nack(3, requeue=True))
    channel.take(name)


@scenario
def rejected_and_requeued(run: Run) -> None:
    name = filled(run, ["one"])
    channel = run.channel()
    subscribe(channel, name)
    channel.deliveries(1)
    channel.send(Basic.Reject(1, requeue=True))
    channel.deliveries(1)
    channel.send(Basic.Nack(2, requeue=True))
    channel.deliveries(1)
    channel.send(Basic.Reject(3, requeue=False))
    channel.call(Basic.Cancel(consumer_tag="c"), quiet=True)
    channel.depth(name, 0)


@scenario
def many_are_requeued_at_once(run: Run) -> None:
    name = filled(run, ["one", "two", "three"])
    channel = run.channel()
    subscribe(channel, name)
    channel.deliveries(3)
    channel.send(Basic.Nack(2, multiple=True, requeue=True))
    channel.deliveries(2)
    channel.send(Basic.Nack(0, multiple=True, requeue=False))  # all that there are
    channel.call(Basic.Cancel(consumer_tag="c"), quiet=True)
    channel.depth(name, 0)


@scenario
def unacknowledged_come_back_after_the_channel(run: Run) -> None:
    name = filled(run, ["one", "two"])
    connection = run.connect()
    channel = connection.channel()
    subscribe(channel, name)
    channel.deliveries(2)
    channel.send(Basic.Ack(1))
    channel.call(Channel.Close(200, "", 0, 0), quiet=True)
    again = connection.channel(2)
    subscribe(again, name)
    again.deliveries(1)


@scenario
def unacknowledged_come_back_after_a_lost_connection(run: Run) -> None:
    name = filled(run, ["one"])
    connection = run.connect()
    channel = connection.channel()
    subscribe(channel, name)
    channel.deliveries(1)
    connection.drop()
    again = run.channel()
    subscribe(again, name)
    again.deliveries(1)


@scenario
def recover_with_requeue(run: Run) -> None:
    name = filled(run, ["one"])
    connection = run.connect()
    channel = connection.channel()
    subscribe(channel, name)
    channel.deliveries(1)
    channel.call(Basic.Recover(requeue=True))
    channel.deliveries(1)
    channel.send(Basic.Ack(2))
    connection.send_frame(METHOD, 1, bytes.fromhex("003c0064 01"))  # basic.recover-async, which has no answer
    channel.call(Basic.Qos())


@scenario
def recover_without_requeue(run: Run) -> None:
    run.channel().attempt(Basic.Recover(requeue=False))


@scenario
def unknown_delivery_tag(run: Run) -> None:
    name = filled(run, ["one"])
    channel = run.channel()
    for method in (Basic.Ack(1), Basic.Nack(7), Basic.Reject(7), Basic.Ack(7, multiple=True)):
        channel.send(method)
        channel.wait_closed()
        channel.open()
    channel.send(Basic.Ack(0, multiple=True))  # all of none
    channel.send(Basic.Nack(0, multiple=True))
    channel.call(Basic.Get(queue=name))
    channel.send(Basic.Ack(0))
    channel.wait_closed()


@scenario
def acknowledged_twice(run: Run) -> None:
    name = filled(run, ["one"])
    channel = run.channel()
    subscribe(channel, name)
    channel.deliveries(1)
    channel.send(Basic.Ack(1))
    channel.send(Basic.Ack(1))
    channel.wait_closed()


@scenario
def acknowledged_without_need(run: Run) -> None:
    name = filled(run, ["one"])
    channel = run.channel()
    subscribe(channel, name, no_ack=True)
    channel.deliveries(1)
    channel.send(Basic.Ack(1))
    channel.wait_closed()


@scenario
def acknowledged_on_another_channel(run: Run) -> None:
    name = filled(run, ["one"])
    connection = run.connect()
    channel = connection.channel()
    subscribe(channel, name)
    channel.deliveries(1)
    other = connection.channel(2)
    other.send(Basic.Ack(1))
    other.wait_closed()
    channel.send(Basic.Ack(1))
    channel.call(Basic.Qos())


@scenario
def prefetch_of_a_consumer(run: Run) -> None:
    name = filled(run, ["one", "two", "three"])
    channel = run.channel()
    channel.call(Basic.Qos(prefetch_count=2))
    channel.call(Basic.Consume(queue=name, consumer_tag="c"))
    channel.deliveries(2)
    channel.depth(name, 1)
    channel.send(Basic.Ack(1))
    channel.deliveries(1)


@scenario
def prefetch_of_a_channel(run: Run) -> None:
    first = filled(run, ["one", "two"], "q1")
    second = filled(run, ["three"], "q2")
    channel = run.channel()
    channel.call(Basic.Qos(prefetch_count=2, global_=True))
    subscribe(channel, first, tag="a")
    channel.deliveries(2)
    subscribe(channel, second, tag="b")
    channel.depth(second, 1)
    channel.send(Basic.Ack(1))
    channel.deliveries(1)


@scenario
def prefetch_by_size(run: Run) -> None:
    channel = run.connect().channel()
    channel.attempt(Basic.Qos(prefetch_size=100))
    channel.call(Basic.Qos(prefetch_count=65_535))


@scenario
def queue_of_a_consumer_is_deleted(run: Run) -> None:
    owner = run.channel()
    name = run.queue(owner)
    consumer = run.channel()
    subscribe(consumer, name)
    owner.call(Queue.Delete(queue=name))
    consumer.wait("Basic.Cancel")
    consumer.call(Basic.Qos())


@scenario
def queue_of_a_consumer_that_cannot_be_told_is_deleted(run: Run) -> None:
    owner = run.channel()
    name = run.queue(owner)
    consumer = run.connect(capabilities={}).channel()
    subscribe(consumer, name)
    owner.call(Queue.Delete(queue=name))
    consumer.call(Basic.Qos())


@scenario
def exclusive_consumer(run: Run) -> None:
    connection = run.connect()
    channel = connection.channel()
    name = run.queue(channel)
    channel.call(Basic.Consume(queue=name, consumer_tag="c", exclusive=True))
    other = run.channel()
    other.attempt(Basic.Consume(queue=name, consumer_tag="d"))
    channel.call(Basic.Cancel(consumer_tag="c"))
    other.call(Basic.Consume(queue=name, consumer_tag="d"))
    channel.attempt(Basic.Consume(queue=name, consumer_tag="c", exclusive=True))


@scenario
def single_active_consumer(run: Run) -> None:
    publisher = run.channel(confirms=True)
    name = run.queue(publisher, arguments={"x-single-active-consumer": True})
    first, second = run.channel(), run.channel()
    subscribe(first, name)
    subscribe(second, name)
    publisher.publish_all(name, ["one", "two"])
    for delivery in first.deliveries(2):
        first.send(Basic.Ack(delivery.method["delivery_tag"]))
    first.call(Basic.Cancel(consumer_tag="c"))
    publisher.publish_all(name, ["three"])
    second.deliveries(1)
    second.attempt(Basic.Consume(queue=name, consumer_tag="d", exclusive=True))


@scenario
def consumer_priorities(run: Run) -> None:
    publisher = run.channel(confirms=True)
    name = run.queue(publisher)
    low, high = run.channel(), run.channel()
    low.call(Basic.Consume(queue=name, consumer_tag="low"))
    high.call(Basic.Qos(prefetch_count=2))
    high.call(Basic.Consume(queue=name, consumer_tag="high", arguments={"x-priority": 10}))
    publisher.publish_all(name, ["one", "two", "three"])
    high.deliveries(2)
    low.deliveries(1)
    low.attempt(Basic.Consume(queue=name, arguments={"x-priority": "high"}))


@scenario
def consumers_take_turns(run: Run) -> None:
    publisher = run.channel(confirms=True)
    name = run.queue(publisher)
    first, second = run.channel(), run.channel()
    subscribe(first, name, prefetch=1)
    subscribe(second, name, prefetch=1)
    publisher.publish_all(name, ["a", "b"])
    first.deliveries(1)
    second.deliveries(1)


@scenario
def direct_reply_to(run: Run) -> None:
    server, client = run.channel(), run.channel()
    name = run.queue(server)
    subscribe(server, name, no_ack=True)
    reply_to = "amq.rabbitmq.reply-to"
    client.call(Basic.Consume(queue=reply_to, consumer_tag="r", no_ack=True))
    properties = Basic.Properties(reply_to=reply_to, correlation_id="7")
    client.publish(name, "question", properties=properties)
    [question] = server.deliveries(1)
    to = str(question.properties.reply_to)
    server.declare_passively(to)
    server.publish(to, "answer", properties=Basic.Properties(correlation_id="7"))
    client.deliveries(1)
    client.call(Basic.Cancel(consumer_tag="r"))
    server.publish(to, "too late", mandatory=True)
    server.wait("Basic.Return")


@scenario
def direct_reply_to_wants_no_acknowledgements(run: Run) -> None:
    channel = run.channel()
    reply_to = "amq.rabbitmq.reply-to"
    channel.attempt(Basic.Consume(queue=reply_to))
    channel.call(Basic.Consume(queue=reply_to, no_ack=True))
    channel.attempt(Basic.Consume(queue=reply_to, no_ack=True))


@scenario
def direct_reply_to_without_a_consumer(run: Run) -> None:
    channel = run.channel()
    name = run.queue(channel)
    channel.publish(name, "question", properties=Basic.Properties(reply_to="amq.rabbitmq.reply-to"))
    channel.wait_closed()


@scenario
def order_of_a_queue(run: Run) -> None:
    numbers = [str(number) for number in range(50)]
    name = filled(run, numbers, durable=False, exclusive=False)
    channel = run.channel()
    channel.note(f"in order: {channel.bodies(name, 50) == numbers}")


@scenario
def no_local_is_ignored(run: Run) -> None:
    channel = run.channel()
    name = run.queue(channel)
    channel.call(Basic.Consume(queue=name, consumer_tag="c", no_local=True, no_ack=True))
    channel.publish(name, "own")
    channel.deliveries(1)


@scenario
def requeued_comes_back_to_the_front(run: Run) -> None:
    name = filled(run, ["one", "two", "three"])
    channel = run.channel()
    channel.depth(name, 3)
    subscribe(channel, name, prefetch=1)
    [first] = channel.deliveries(1)
    channel.send(Basic.Nack(first.method["delivery_tag"], requeue=True))
    for _ in range(3):
        [delivery] = channel.deliveries(1)
        channel.send(Basic.Ack(delivery.method["delivery_tag"]))


@scenario
def prefetch_is_that_of_later_consumers(run: Run) -> None:
    first, second = filled(run, ["a1", "a2", "a3"], "q1"), filled(run, ["b1", "b2", "b3"], "q2")
    channel = run.channel()
    channel.call(Basic.Qos(prefetch_count=1))
    subscribe(channel, first, tag="a")
    channel.deliveries(1)
    channel.call(Basic.Qos(prefetch_count=2))
    subscribe(channel, second, tag="b")
    channel.deliveries(2)
    channel.depth(first, 2)
    channel.depth(second, 1)


@scenario
def tags_are_counted_over_consumers_and_gets(run: Run) -> None:
    first, second = filled(run, ["a1", "a2"], "q1"), filled(run, ["b1"], "q2")
    channel = run.channel()
    channel.take(first)
    subscribe(channel, second)
    channel.deliveries(1)
    channel.take(first, no_ack=False)
    channel.send(Basic.Ack(3, multiple=True))
    channel.call(Basic.Recover(requeue=True))
    channel.depth(first, 0)


@scenario
def consumers_of_a_connection_go_on_when_a_channel_ends(run: Run) -> None:
    connection = run.connect()
    failing, consuming = connection.channel(1), connection.channel(2)
    name = run.queue(consuming)
    subscribe(consuming, name, no_ack=True)
    failing.attempt(Basic.Cancel(consumer_tag="c"))
    failing.attempt(Queue.Declare(queue=run.name("none"), passive=True))
    failing.publish(name, "still here")
    consuming.deliveries(1)
