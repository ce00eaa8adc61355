"""Messages that end: expired, rejected, crowded out, and where they then go."""

from __future__ import annotations

from pamqp.commands import Basic, Queue

from tests.interop.amqp.peer import Content, PeerChannel
from tests.interop.amqp.scenario import Group, Run

scenario = Group("deadletter")

Properties = Basic.Properties


def with_dead_letters(run: Run, channel: PeerChannel, **arguments: object) -> tuple[str, str]:
    """A queue, and the one that its dead letters go to."""
    dead = run.queue(channel, "dead")
    exchange = run.exchange(channel, "fanout", "dlx")
    run.bind(channel, dead, exchange)
    dashed = {name.replace("_", "-"): value for name, value in arguments.items()}
    details = {"durable": True} if "x_queue_type" in arguments else {}  # a quorum queue has to be
    return run.queue(channel, arguments={"x-dead-letter-exchange": exchange, **dashed}, **details), dead


@scenario
def rejected(run: Run) -> None:
    channel = run.channel(confirms=True)
    name, dead = with_dead_letters(run, channel)
    channel.publish(name, "no", properties=Properties(headers={"own": 1}, message_id="m", expiration="600000"))
    channel.confirms(1)
    got = channel.take(name, no_ack=False)
    channel.send(Basic.Reject(got.method["delivery_tag"], requeue=False))
    channel.take(dead)


@scenario
def rejected_with_a_routing_key(run: Run) -> None:
    channel = run.channel(confirms=True)
    dead = run.queue(channel, "dead")
    name = run.queue(channel, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    channel.publish(name, "no")
    channel.confirms(1)
    got = channel.take(name, no_ack=False)
    channel.send(Basic.Nack(got.method["delivery_tag"], requeue=False))
    channel.take(dead)


@scenario
def rejected_twice(run: Run) -> None:
    channel = run.channel(confirms=True)
    name, dead = with_dead_letters(run, channel)
    channel.publish(name, "no")
    channel.confirms(1)
    got = channel.take(name, no_ack=False)
    channel.send(Basic.Reject(got.method["delivery_tag"], requeue=False))
    got = channel.take(dead)
    channel.publish(name, "again", properties=got.properties)
    channel.confirmed()
    got = channel.take(name, no_ack=False)
    channel.send(Basic.Reject(got.method["delivery_tag"], requeue=False))
    channel.take(dead)


@scenario
def expired_in_the_queue(run: Run) -> None:
    channel = run.channel(confirms=True)
    name, dead = with_dead_letters(run, channel, x_message_ttl=200)
    channel.publish(name, "old")
    channel.confirms(1)
    channel.take(dead)


@scenario
def expired_by_itself(run: Run) -> None:
    channel = run.channel(confirms=True)
    name, dead = with_dead_letters(run, channel)
    channel.publish(name, "old", properties=Properties(expiration="200"))
    channel.confirms(1)
    channel.take(dead)


@scenario
def expired_at_once_without_a_consumer(run: Run) -> None:
    channel = run.channel(confirms=True)
    name, dead = with_dead_letters(run, channel)
    channel.publish(name, "now or never", properties=Properties(expiration="0"))
    channel.confirms(1)
    channel.take(dead)


@scenario
def expired_at_once_with_a_consumer(run: Run) -> None:
    channel = run.channel()
    name = run.queue(channel)
    channel.call(Basic.Consume(queue=name, consumer_tag="c", no_ack=True))
    channel.publish(name, "now or never", properties=Properties(expiration="0"))
    channel.deliveries(1)


@scenario
def expired_and_nobody_wants_it(run: Run) -> None:
    channel = run.channel(confirms=True)
    name = run.queue(channel, arguments={"x-message-ttl": 200})
    channel.publish(name, "old")
    channel.confirms(1)
    channel.depth(name, 0)
    channel.call(Basic.Get(queue=name))


@scenario
def crowded_out(run: Run) -> None:
    channel = run.channel(confirms=True)
    name, dead = with_dead_letters(run, channel, x_max_length=2)
    channel.publish_all(name, ["one", "two", "three"])
    channel.take(dead)
    channel.take(name)
    channel.take(name)


@scenario
def too_many_are_refused(run: Run) -> None:
    channel = run.channel(confirms=True)
    name = run.queue(channel, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    channel.publish(name, "one")
    channel.confirms(1)
    channel.depth(name, 1)
    channel.publish(name, "two")
    channel.confirmed()


@scenario
def too_many_are_refused_and_dead_lettered(run: Run) -> None:
    channel = run.channel(confirms=True)
    name, dead = with_dead_letters(run, channel, x_max_length=1, x_overflow="reject-publish-dlx")
    channel.publish(name, "one")
    channel.confirms(1)
    channel.depth(name, 1)
    channel.publish(name, "two")
    channel.confirmed()
    channel.take(dead)


@scenario
def too_many_bytes(run: Run) -> None:
    channel = run.channel(confirms=True)
    name, dead = with_dead_letters(run, channel, x_max_length_bytes=10)
    channel.publish_all(name, ["12345678", "12345"])
    channel.take(dead)


@scenario
def delivered_too_often(run: Run) -> None:
    channel = run.channel(confirms=True)
    name, dead = with_dead_letters(run, channel, x_queue_type="quorum", x_delivery_limit=2)
    channel.publish(name, "poison")
    channel.confirms(1)
    channel.call(Basic.Consume(queue=name, consumer_tag="c"), quiet=True)
    for _ in range(3):
        [delivery] = channel.deliveries(1)
        channel.send(Basic.Nack(delivery.method["delivery_tag"], requeue=True))
    channel.take(dead)


@scenario
def dead_letter_exchange_that_is_not_there(run: Run) -> None:
    channel = run.channel(confirms=True)
    name = run.queue(channel, arguments={"x-dead-letter-exchange": run.name("none")})
    channel.publish(name, "no")
    channel.confirms(1)
    got = channel.take(name, no_ack=False)
    channel.send(Basic.Reject(got.method["delivery_tag"], requeue=False))
    channel.depth(name, 0)


@scenario
def circle_of_dead_letters_is_cut(run: Run) -> None:
    channel = run.channel(confirms=True)
    name = run.name("q")
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": name, "x-message-ttl": 100}
    channel.call(Queue.Declare(queue=name, durable=True, arguments=arguments))
    channel.publish(name, "round and round")
    channel.confirms(1)
    channel.depth(name, 0)


@scenario
def queue_that_is_not_used_expires(run: Run) -> None:
    channel = run.channel(confirms=True)
    name = run.queue(channel, durable=False, arguments={"x-expires": 300})
    channel.gone(name)


@scenario
def priorities(run: Run) -> None:
    channel = run.channel(confirms=True)
    name = run.queue(channel, arguments={"x-max-priority": 5})
    for priority in (None, 1, 5, 3, 9):
        channel.publish(name, f"priority {priority}", properties=Properties(priority=priority))
    channel.confirms(5)
    channel.depth(name, 5)
    for _ in range(5):
        channel.take(name)


@scenario
def expired_behind_one_that_is_not(run: Run) -> None:
    channel = run.channel(confirms=True)
    name, dead = with_dead_letters(run, channel)
    channel.publish(name, "long", properties=Properties(expiration="600000"))
    channel.publish(name, "short", properties=Properties(expiration="1"))
    channel.confirms(2)
    first = channel.call(Basic.Get(queue=name, no_ack=True), quiet=True)
    channel.note(f"first: {first.body!r}" if isinstance(first, Content) else "nothing")
    channel.take(dead)


@scenario
def dead_letter_that_nobody_takes(run: Run) -> None:
    channel = run.channel(confirms=True)
    exchange = run.exchange(channel, "direct", "dlx")
    name = run.queue(channel, arguments={"x-dead-letter-exchange": exchange})
    channel.publish(name, "no")
    channel.confirms(1)
    got = channel.take(name, no_ack=False)
    channel.send(Basic.Reject(got.method["delivery_tag"], requeue=False))
    channel.depth(name, 0)
    channel.call(Basic.Get(queue=name))
