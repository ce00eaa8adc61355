"""Exchanges, queues and bindings: what is declared, refused and deleted."""

from __future__ import annotations

from pamqp.commands import Basic, Channel, Exchange, Queue

from tests.interop.amqp.scenario import Group, Run

scenario = Group("topology")


@scenario
def queue_declared_twice_and_passively(run: Run) -> None:
    channel = run.channel()
    name = run.name("q")
    channel.call(Queue.Declare(queue=name, durable=True))
    channel.call(Queue.Declare(queue=name, durable=True))
    channel.call(Queue.Declare(queue=name, passive=True))
    channel.publish(name, "one")
    channel.depth(name, 1)
    channel.call(Queue.Purge(queue=name))
    channel.call(Queue.Delete(queue=name))
    channel.call(Queue.Delete(queue=name))


@scenario
def queue_named_by_the_server(run: Run) -> None:
    channel = run.channel()
    channel.call(Queue.Declare(exclusive=True))
    channel.call(Basic.Get(queue="", no_ack=True))  # the last declared
    channel.call(Queue.Purge(queue=""))
    channel.call(Queue.Bind(queue="", exchange="amq.direct", routing_key="k"))
    channel.call(Queue.Delete(queue=""))


@scenario
def last_queue_when_none_was_declared(run: Run) -> None:
    channel = run.channel()
    channel.attempt(Queue.Bind(queue="", exchange="amq.direct", routing_key="k"))
    channel.attempt(Basic.Consume(queue=""))
    channel.attempt(Basic.Get(queue=""))


@scenario
def queue_that_is_not_there(run: Run) -> None:
    channel = run.channel()
    name = run.name("none")
    channel.attempt(Queue.Declare(queue=name, passive=True))
    channel.attempt(Basic.Consume(queue=name))
    channel.attempt(Basic.Get(queue=name))
    channel.attempt(Queue.Purge(queue=name))
    channel.attempt(Queue.Bind(queue=name, exchange="amq.direct"))
    channel.attempt(Queue.Unbind(queue=name, exchange="amq.direct"))
    channel.attempt(Queue.Delete(queue=name))
    channel.call(Queue.Delete(queue=name, if_unused=True, if_empty=True))


@scenario
def exchange_that_is_not_there(run: Run) -> None:
    channel = run.channel()
    queue = run.queue(channel)
    name = run.name("none")
    channel.attempt(Exchange.Declare(exchange=name, passive=True))
    channel.attempt(Queue.Bind(queue=queue, exchange=name, routing_key="k"))
    channel.attempt(Exchange.Bind(destination=name, source="amq.direct"))
    channel.attempt(Exchange.Bind(destination="amq.direct", source=name))
    channel.attempt(Exchange.Unbind(destination="amq.direct", source=name))
    channel.attempt(Exchange.Delete(exchange=name))
    channel.call(Exchange.Delete(exchange=name, if_unused=True))
    channel.publish("k", "lost", exchange=name)
    channel.wait_closed()


@scenario
def queue_declared_otherwise(run: Run) -> None:
    channel = run.channel()
    name = run.queue(channel, arguments={"x-message-ttl": 60_000})
    ttl = {"x-message-ttl": 60_000}
    channel.attempt(Queue.Declare(queue=name, durable=False, arguments=ttl))
    channel.attempt(Queue.Declare(queue=name, durable=True, auto_delete=True, arguments=ttl))
    channel.attempt(Queue.Declare(queue=name, durable=True, exclusive=True, arguments=ttl))
    channel.attempt(Queue.Declare(queue=name, durable=True))
    channel.attempt(Queue.Declare(queue=name, durable=True, arguments={"x-message-ttl": 1}))
    channel.attempt(Queue.Declare(queue=name, durable=True, arguments={"x-message-ttl": "60000"}))
    channel.attempt(Queue.Declare(queue=name, durable=True, arguments={**ttl, "x-expires": 5_000_000}))
    channel.attempt(Queue.Declare(queue=name, durable=True, arguments={**ttl, "x-max-length": 5}))
    channel.attempt(Queue.Declare(queue=name, durable=True, arguments={**ttl, "x-max-priority": 5}))
    channel.attempt(Queue.Declare(queue=name, durable=True, arguments={**ttl, "x-dead-letter-exchange": "x"}))
    channel.attempt(Queue.Declare(queue=name, durable=True, arguments={**ttl, "x-queue-type": "quorum"}))
    channel.attempt(Queue.Declare(queue=name, durable=True, arguments={**ttl, "x-queue-type": "classic"}))
    channel.call(Queue.Declare(queue=name, durable=True, arguments={**ttl, "x-anything": "else"}))


@scenario
def invalid_queue_arguments(run: Run) -> None:
    channel = run.channel()
    for arguments in (
        {"x-message-ttl": -1},
        {"x-message-ttl": "soon"},
        {"x-message-ttl": 2**40},
        {"x-expires": 0},
        {"x-expires": "soon"},
        {"x-max-length": -1},
        {"x-max-length-bytes": "many"},
        {"x-max-priority": 256},
        {"x-max-priority": -1},
        {"x-max-priority": "high"},
        {"x-dead-letter-exchange": 1},
        {"x-dead-letter-routing-key": "k"},
        {"x-dead-letter-exchange": "x", "x-dead-letter-routing-key": 5},
        {"x-overflow": "explode"},
        {"x-queue-type": "imaginary"},
        {"x-queue-type": 5},
        {"x-queue-mode": "hasty"},
        {"x-single-active-consumer": "yes"},
    ):
        channel.attempt(Queue.Declare(queue=run.name("q"), durable=True, arguments=arguments))


@scenario
def quorum_queue_arguments(run: Run) -> None:
    channel = run.channel()
    quorum = {"x-queue-type": "quorum"}
    channel.call(Queue.Declare(queue=run.name("good"), durable=True, arguments={**quorum, "x-delivery-limit": 3}))
    channel.attempt(Queue.Declare(queue=run.name("transient"), arguments=quorum))
    channel.attempt(Queue.Declare(queue=run.name("own"), durable=True, exclusive=True, arguments=quorum))
    channel.attempt(Queue.Declare(queue=run.name("auto"), durable=True, auto_delete=True, arguments=quorum))
    channel.attempt(Queue.Declare(queue=run.name("high"), durable=True, arguments={**quorum, "x-max-priority": 5}))
    channel.attempt(Queue.Declare(queue=run.name("limit"), durable=True, arguments={**quorum, "x-delivery-limit": -1}))


@scenario
def delivery_limit_of_a_classic_queue(run: Run) -> None:
    run.channel().attempt(Queue.Declare(queue=run.name("q"), durable=True, arguments={"x-delivery-limit": 3}))


@scenario
def exclusive_queue_of_somebody_else(run: Run) -> None:
    owner = run.channel()
    name = run.queue(owner, durable=False, exclusive=True)
    other = run.channel()
    other.attempt(Queue.Declare(queue=name, exclusive=True))
    other.attempt(Queue.Declare(queue=name, passive=True))
    other.attempt(Basic.Consume(queue=name))
    other.attempt(Basic.Get(queue=name))
    other.attempt(Queue.Purge(queue=name))
    other.attempt(Queue.Delete(queue=name))
    other.attempt(Queue.Bind(queue=name, exchange="amq.direct", routing_key="k"))
    other.publish(name, "from elsewhere")
    owner.depth(name, 1)


@scenario
def exclusive_queue_ends_with_its_connection(run: Run) -> None:
    connection = run.connect()
    name = run.queue(connection.channel(), durable=False, exclusive=True)
    connection.close()
    run.channel().attempt(Queue.Declare(queue=name, passive=True))


@scenario
def exclusive_queue_is_free_again_after_its_connection(run: Run) -> None:
    connection = run.connect()
    name = run.queue(connection.channel(), durable=False, exclusive=True)
    connection.close()
    run.channel().call(Queue.Declare(queue=name, exclusive=True))


@scenario
def auto_delete_queue_ends_with_its_last_consumer(run: Run) -> None:
    channel = run.channel()
    name = run.queue(channel, durable=False, auto_delete=True)
    channel.call(Basic.Consume(queue=name, consumer_tag="a"))
    channel.call(Basic.Consume(queue=name, consumer_tag="b"))
    channel.call(Basic.Cancel(consumer_tag="a"))
    channel.call(Queue.Declare(queue=name, passive=True))
    channel.call(Basic.Cancel(consumer_tag="b"))
    channel.attempt(Queue.Declare(queue=name, passive=True))


@scenario
def auto_delete_exchange_ends_with_its_last_binding(run: Run) -> None:
    channel = run.channel()
    queue = run.queue(channel)
    name = run.exchange(channel, "direct", auto_delete=True)
    run.bind(channel, queue, name, "k")
    channel.call(Queue.Unbind(queue=queue, exchange=name, routing_key="k"))
    channel.attempt(Exchange.Declare(exchange=name, passive=True))


@scenario
def queue_deleted_if_unused_or_empty(run: Run) -> None:
    channel = run.channel(confirms=True)
    name = run.queue(channel)
    channel.publish(name, "one")
    channel.confirms(1)
    channel.attempt(Queue.Delete(queue=name, if_empty=True))
    channel.attempt(Basic.Consume(queue=name, consumer_tag="c"))
    channel.deliveries(1)
    channel.attempt(Queue.Delete(queue=name, if_unused=True))
    channel.attempt(Queue.Delete(queue=name))


@scenario
def exchange_deleted_if_unused(run: Run) -> None:
    channel = run.channel()
    queue = run.queue(channel)
    name = run.exchange(channel, "direct")
    run.bind(channel, queue, name)
    channel.attempt(Exchange.Delete(exchange=name, if_unused=True))
    channel.attempt(Queue.Unbind(queue=queue, exchange=name))
    channel.call(Exchange.Delete(exchange=name, if_unused=True))


@scenario
def exchange_declared_otherwise(run: Run) -> None:
    channel = run.channel()
    name = run.exchange(channel, "direct")
    channel.call(Exchange.Declare(exchange=name, exchange_type="direct", durable=True))
    channel.call(Exchange.Declare(exchange=name, passive=True))
    channel.attempt(Exchange.Declare(exchange=name, exchange_type="fanout", durable=True))
    channel.attempt(Exchange.Declare(exchange=name, exchange_type="direct"))
    channel.attempt(Exchange.Declare(exchange=name, exchange_type="direct", durable=True, auto_delete=True))
    channel.attempt(Exchange.Declare(exchange=name, exchange_type="direct", durable=True, internal=True))
    channel.attempt(
        Exchange.Declare(
            exchange=name, exchange_type="direct", durable=True, arguments={"alternate-exchange": "amq.fanout"}
        )
    )


@scenario
def predeclared_exchanges(run: Run) -> None:
    channel = run.channel()
    for kind, name in (
        ("direct", "amq.direct"),
        ("fanout", "amq.fanout"),
        ("topic", "amq.topic"),
        ("headers", "amq.headers"),
        ("headers", "amq.match"),
        ("direct", ""),
    ):
        channel.attempt(Exchange.Declare(exchange=name, exchange_type=kind, passive=True))
    channel.call(Exchange.Declare(exchange="amq.direct", exchange_type="direct", durable=True))
    channel.attempt(Exchange.Declare(exchange="amq.direct", exchange_type="fanout", durable=True))


@scenario
def default_exchange_cannot_be_changed(run: Run) -> None:
    channel = run.channel()
    queue = run.queue(channel)
    channel.attempt(Exchange.Declare(exchange="", exchange_type="direct", durable=True))
    channel.attempt(Exchange.Delete(exchange=""))
    channel.attempt(Queue.Bind(queue=queue, exchange="", routing_key=queue))
    channel.attempt(Queue.Unbind(queue=queue, exchange="", routing_key=queue))
    channel.attempt(Exchange.Bind(destination="", source="amq.direct"))
    channel.attempt(Exchange.Bind(destination="amq.direct", source=""))


@scenario
def reserved_names(run: Run) -> None:
    channel = run.channel()
    channel.attempt(Queue.Declare(queue=run.name("amq.mine"), durable=True))
    channel.attempt(Exchange.Declare(exchange=run.name("amq.mine"), exchange_type="direct"))
    channel.attempt(Exchange.Delete(exchange="amq.direct"))
    channel.attempt(Queue.Declare(queue=run.name("amq.none"), passive=True))
    channel.attempt(Exchange.Declare(exchange=run.name("amq.none"), passive=True))


@scenario
def unknown_exchange_type(run: Run) -> None:
    run.channel().attempt(Exchange.Declare(exchange=run.name("x"), exchange_type="imaginary"))


@scenario
def invalid_exchange_arguments(run: Run) -> None:
    channel = run.channel()
    channel.attempt(
        Exchange.Declare(exchange=run.name("x"), exchange_type="direct", arguments={"alternate-exchange": 5})
    )
    channel.attempt(
        Exchange.Declare(exchange=run.name("x"), exchange_type="direct", arguments={"alternate-exchange": ""})
    )


@scenario
def internal_exchange_takes_no_publish(run: Run) -> None:
    channel = run.channel()
    name = run.exchange(channel, "fanout", internal=True)
    channel.publish("k", "no", exchange=name)
    channel.wait_closed()


@scenario
def bindings_can_be_made_and_removed_twice(run: Run) -> None:
    channel = run.channel()
    queue = run.queue(channel)
    name = run.exchange(channel, "direct")
    for _ in range(2):
        channel.call(Queue.Bind(queue=queue, exchange=name, routing_key="k"))
    channel.publish("k", "once", exchange=name)
    channel.depth(queue, 1)
    for _ in range(2):
        channel.call(Queue.Unbind(queue=queue, exchange=name, routing_key="k"))
    channel.call(Exchange.Bind(destination=name, source="amq.topic", routing_key="a.#"))
    channel.call(Exchange.Unbind(destination=name, source="amq.topic", routing_key="a.#"))
    channel.call(Exchange.Unbind(destination=name, source="amq.topic", routing_key="a.#"))


@scenario
def headers_binding_with_an_unknown_match(run: Run) -> None:
    channel = run.channel()
    queue = run.queue(channel)
    channel.attempt(Queue.Bind(queue=queue, exchange="amq.headers", arguments={"x-match": "some"}))
    channel.attempt(Queue.Bind(queue=queue, exchange="amq.headers", arguments={"x-match": 5}))
    channel.attempt(Queue.Bind(queue=queue, exchange="amq.headers", arguments={"a": 1}))


@scenario
def without_an_answer(run: Run) -> None:
    channel = run.channel()
    queue, exchange = run.name("q"), run.name("x")
    channel.send(Queue.Declare(queue=queue, durable=True, nowait=True))
    channel.send(Exchange.Declare(exchange=exchange, exchange_type="direct", durable=True, nowait=True))
    channel.send(Queue.Bind(queue=queue, exchange=exchange, routing_key="k", nowait=True))
    channel.publish("k", "arrives", exchange=exchange)
    channel.depth(queue, 1)
    channel.send(Queue.Purge(queue=queue, nowait=True))
    channel.depth(queue, 0)
    channel.send(Basic.Consume(queue=queue, consumer_tag="c", nowait=True))
    channel.publish("k", "consumed", exchange=exchange)
    channel.deliveries(1)
    channel.send(Basic.Cancel(consumer_tag="c", nowait=True))
    channel.send(Exchange.Delete(exchange=exchange, nowait=True))
    channel.send(Queue.Delete(queue=queue, nowait=True))
    channel.attempt(Queue.Declare(queue=queue, passive=True))
    channel.send(Queue.Declare(queue=queue, passive=True, nowait=True))
    channel.wait_closed()


@scenario
def names_that_sqs_does_not_know(run: Run) -> None:
    channel = run.channel(confirms=True)
    for base in ("a.b:c/d@e", "with space", "x" * 200):
        name = run.name(base)
        channel.call(Queue.Declare(queue=name, durable=True))
        channel.publish(name, "arrives")
        channel.confirmed()
        channel.call(Basic.Get(queue=name, no_ack=True))
        channel.call(Queue.Delete(queue=name))


@scenario
def message_and_consumer_counts(run: Run) -> None:
    channel = run.channel(confirms=True)
    name = run.queue(channel)
    for number in range(3):
        channel.publish(name, str(number))
    channel.confirms(3)
    channel.depth(name, 3)
    other = run.channel()
    other.call(Basic.Qos(prefetch_count=1))
    other.call(Basic.Consume(queue=name, consumer_tag="c"))
    other.deliveries(1)
    channel.depth(name, 2)
    channel.call(Queue.Declare(queue=name, passive=True))
    channel.call(Queue.Purge(queue=name))
    channel.call(Channel.Close(200, "", 0, 0))
