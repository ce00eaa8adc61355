"""exchange.* and queue.*: what the hub is asked for, and what clients are told."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pamqp.commands import Basic, Channel, Exchange, Queue

from gateway.core.commands import (
    Bind,
    BindExchange,
    Consume,
    Counted,
    DeclareExchange,
    DeclareQueue,
    DeleteExchange,
    DeleteQueue,
    Get,
    Presence,
    PurgeQueue,
    Unbind,
    UnbindExchange,
)
from gateway.core.errors import (
    AccessDenied,
    Inequivalent,
    InUse,
    InvalidArgument,
    Locked,
    MqliftError,
    NotAuthorized,
    NotEmpty,
    NotFound,
    NotSupported,
    Refused,
    Unavailable,
)
from gateway.core.exchanges import ExchangeType
from gateway.core.topology import UnknownExchange, UnknownQueue
from tests.sessions.amqp091.peer import connected, refused

LOCKED = (
    "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'. It could be originally "
    "declared on another connection or the exclusive property value does not match that of the original declaration."
)
DEFAULT = "ACCESS_REFUSED - operation not permitted on the default exchange"

ANSWERED: list[tuple[Any, type, type]] = [
    (Exchange.Declare(exchange="x"), DeclareExchange, Exchange.DeclareOk),
    (Exchange.Delete(exchange="x"), DeleteExchange, Exchange.DeleteOk),
    (Exchange.Bind(destination="x", source="y"), BindExchange, Exchange.BindOk),
    (Exchange.Unbind(destination="x", source="y"), UnbindExchange, Exchange.UnbindOk),
    (Queue.Declare(queue="q"), DeclareQueue, Queue.DeclareOk),
    (Queue.Delete(queue="q"), DeleteQueue, Queue.DeleteOk),
    (Queue.Bind(queue="q", exchange="x"), Bind, Queue.BindOk),
    (Queue.Unbind(queue="q", exchange="x"), Unbind, Queue.UnbindOk),
    (Queue.Purge(queue="q"), PurgeQueue, Queue.PurgeOk),
]


@pytest.mark.parametrize(("method", "command", "answer"), ANSWERED, ids=lambda each: getattr(each, "name", None))
class TestEach:
    def test_is_answered_when_the_hub_has_done_it(self, method: Any, command: type, answer: type) -> None:
        peer = connected()
        peer.hold = (command,)
        peer.send(1, method)
        assert not peer.received()
        peer.release()
        peer.only(answer)

    def test_is_not_answered_where_nobody_waits(self, method: Any, command: type, answer: type) -> None:
        if not hasattr(method, "nowait"):
            return  # queue.unbind is always answered (spec §1.7.2.5)
        peer = connected()
        method.nowait = True
        try:
            peer.send(1, method)
        finally:
            method.nowait = False
        assert peer.take(command)
        assert not peer.received()

    @pytest.mark.parametrize(
        ("error", "code", "text"),
        [
            (
                NotAuthorized("no"),
                403,
                r"ACCESS_REFUSED - access to (queue 'q'|exchange '[xy]') in vhost '/' refused.*",
            ),
            (NotSupported("cannot be done"), 540, "NOT_IMPLEMENTED - cannot be done"),
            (Refused("enough of them"), 406, "PRECONDITION_FAILED - enough of them"),
            (NotFound("not there", resource="sqs queue q"), 404, "NOT_FOUND - sqs queue q: not there"),
            (AccessDenied("denied"), 403, "ACCESS_REFUSED - denied"),
            (Unavailable("no answer"), 506, "RESOURCE_ERROR - no answer"),
            (InvalidArgument("x-y", "bad"), 406, r"PRECONDITION_FAILED - invalid arg 'x-y' for .* in vhost '/': bad"),
            (UnknownExchange("x"), 404, "NOT_FOUND - no exchange 'x' in vhost '/'"),
            (Locked("q"), 405, re.escape(LOCKED)),
        ],
        ids=lambda each: type(each).__name__ if isinstance(each, MqliftError) else None,
    )
    def test_closes_the_channel_when_it_is_refused(
        self, method: Any, command: type, answer: type, error: MqliftError, code: int, text: str
    ) -> None:
        peer = connected()
        peer.answers[command] = refused(error)
        peer.send(1, method)
        close = peer.only(Channel.Close)
        assert close.reply_code == code
        assert re.fullmatch(text[:255], close.reply_text)
        assert (close.class_id, close.method_id) == (method.index >> 16, method.index & 0xFFFF)


class TestExchanges:
    def test_what_is_asked_for(self) -> None:
        peer = connected()
        arguments = {"alternate-exchange": "y", "x-own": 1}
        peer.send(
            1,
            Exchange.Declare(
                exchange="x", exchange_type="topic", durable=True, auto_delete=True, internal=True, arguments=arguments
            ),
        )
        (declare,) = peer.take(DeclareExchange)
        spec = declare.spec
        assert (declare.exchange, declare.presence, spec.type) == ("x", Presence.EQUIVALENT, ExchangeType.TOPIC)
        assert (spec.durable, spec.auto_delete, spec.internal, spec.arguments) == (True, True, True, arguments)

    def test_passively_it_only_has_to_be_there(self) -> None:
        peer = connected()
        peer.send(1, Exchange.Declare(exchange="x", exchange_type="", passive=True))
        (declare,) = peer.take(DeclareExchange)
        assert declare.presence is Presence.REQUIRED
        peer.only(Exchange.DeclareOk)

    def test_an_unknown_type_closes_the_connection(self) -> None:
        peer = connected()
        peer.send(1, Exchange.Declare(exchange="x", exchange_type="imaginary"))
        peer.closed_connection(503, "COMMAND_INVALID - unknown exchange type 'imaginary'", Exchange.Declare)

    def test_predeclared_ones_may_be_declared(self) -> None:
        peer = connected()
        peer.send(1, Exchange.Declare(exchange="amq.topic", exchange_type="topic", durable=True))
        peer.only(Exchange.DeclareOk)

    @pytest.mark.parametrize(
        ("method", "code", "text"),
        [
            (Exchange.Declare(exchange=""), 403, DEFAULT),
            (Exchange.Declare(exchange="", passive=True), 403, DEFAULT),
            (Exchange.Delete(exchange=""), 403, DEFAULT),
            (Exchange.Bind(destination="x", source=""), 403, DEFAULT),
            (Exchange.Bind(destination="", source="x"), 403, DEFAULT),
            (Exchange.Unbind(destination="", source="x"), 403, DEFAULT),
            (Queue.Bind(queue="q", exchange=""), 403, DEFAULT),
            (Queue.Unbind(queue="q", exchange=""), 403, DEFAULT),
            (
                Exchange.Declare(exchange="amq.mine"),
                403,
                "ACCESS_REFUSED - exchange name 'amq.mine' contains reserved prefix 'amq.*'",
            ),
            (
                Exchange.Delete(exchange="amq.direct"),
                403,
                "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed",
            ),
            (
                Exchange.Declare(exchange="x", arguments={"alternate-exchange": 5}),
                406,
                (
                    "PRECONDITION_FAILED - invalid type 'signedint' for arg 'alternate-exchange' "
                    "in exchange 'x' in vhost '/'"
                ),
            ),
        ],
    )
    def test_what_is_refused_without_asking(self, method: Any, code: int, text: str) -> None:
        peer = connected()
        peer.send(1, method)
        assert not peer.done
        peer.closed_channel(code, text, method)

    @pytest.mark.parametrize(
        ("error", "text"),
        [
            (
                Inequivalent("exchange", "x", "type", "fanout", "direct"),
                "inequivalent arg 'type' for exchange 'x' in vhost '/': received 'fanout' but current is 'direct'",
            ),
            (
                Inequivalent("exchange", "x", "alternate-exchange", "y", "none"),
                (
                    "inequivalent arg 'alternate-exchange' for exchange 'x' in vhost '/': received the value 'y' "
                    "of type 'longstr' but current is none"
                ),
            ),
        ],
    )
    def test_declared_otherwise(self, error: Inequivalent, text: str) -> None:
        peer = connected()
        peer.answers[DeclareExchange] = refused(error)
        peer.send(1, Exchange.Declare(exchange="x"))
        peer.closed_channel(406, f"PRECONDITION_FAILED - {text}", Exchange.Declare)

    def test_in_use(self) -> None:
        peer = connected()
        peer.answers[DeleteExchange] = refused(InUse("bindings"))
        peer.send(1, Exchange.Delete(exchange="x", if_unused=True))
        assert peer.take(DeleteExchange)[0].if_unused
        peer.closed_channel(406, "PRECONDITION_FAILED - exchange 'x' in vhost '/' in use", Exchange.Delete)


class TestQueues:
    def test_what_is_asked_for_and_counted(self) -> None:
        peer = connected()
        peer.answers[DeclareQueue] = Counted(7, 3)
        peer.send(1, Queue.Declare(queue="q", durable=True, auto_delete=True, arguments={"x-expires": 1}))
        (declare,) = peer.take(DeclareQueue)
        spec = declare.spec
        assert (declare.queue, declare.presence) == ("q", Presence.EQUIVALENT)
        assert (spec.durable, spec.exclusive, spec.auto_delete) == (True, False, True)
        assert spec.arguments == {"x-expires": 1}
        ok = peer.only(Queue.DeclareOk)
        assert (ok.queue, ok.message_count, ok.consumer_count) == ("q", 7, 3)

    def test_without_a_name_the_server_gives_one(self) -> None:
        peer = connected()
        peer.send(1, Queue.Declare(exclusive=True))
        name = peer.only(Queue.DeclareOk).queue
        assert re.fullmatch(r"amq\.gen-[A-Za-z0-9_-]{22}", name)
        assert peer.take(DeclareQueue)[0].queue == name

    def test_the_last_one_is_meant_where_none_is_named(self) -> None:
        peer = connected(1, 2)
        peer.send(1, Queue.Declare(queue="q"), Queue.Bind(exchange="x"), Queue.Bind(queue="q", exchange="x"))
        assert [(each.queue, each.pattern) for each in peer.take(Bind)] == [("q", "q"), ("q", "")]
        peer.send(1, Queue.Purge(), Basic.Get(), Basic.Consume(), Queue.Unbind(exchange="x"), Queue.Delete())
        for kind in (PurgeQueue, Get, Consume, Unbind, DeleteQueue):
            assert peer.take(kind)[0].queue == "q"  # type: ignore[attr-defined]

    @pytest.mark.parametrize(
        "method", [Queue.Bind(exchange="x"), Queue.Purge(), Queue.Delete(), Basic.Get(), Basic.Consume()]
    )
    def test_there_was_no_last_one(self, method: Any) -> None:
        peer = connected()
        peer.send(1, method)
        peer.closed_channel(404, "NOT_FOUND - no previously declared queue", method)

    def test_a_name_of_the_server_s_may_be_declared_again(self) -> None:
        peer = connected()
        peer.send(1, Queue.Declare(queue="amq.gen-x"))
        assert [each.presence for each in peer.take(DeclareQueue)] == [Presence.REQUIRED, Presence.EQUIVALENT]
        peer.only(Queue.DeclareOk)

    def test_and_not_made(self) -> None:
        peer = connected()
        peer.answers[DeclareQueue] = refused(UnknownQueue("amq.mine"))
        peer.send(1, Queue.Declare(queue="amq.mine"))
        text = "ACCESS_REFUSED - queue name 'amq.mine' contains reserved prefix 'amq.*'"
        peer.closed_channel(403, text, Queue.Declare)

    @pytest.mark.parametrize(
        ("error", "code", "text"),
        [
            (
                Inequivalent("queue", "q", "durable", "false", "true"),
                406,
                (
                    "PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but "
                    "current is 'true'"
                ),
            ),
            (
                Inequivalent("queue", "q", "x-message-ttl", "none", "60000"),
                406,
                (
                    "PRECONDITION_FAILED - inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received none "
                    "but current is the value '60000' of type 'signedint'"
                ),
            ),
            (Inequivalent("queue", "q", "exclusive", "true", "false"), 405, LOCKED),
        ],
    )
    def test_declared_otherwise(self, error: Inequivalent, code: int, text: str) -> None:
        peer = connected()
        peer.answers[DeclareQueue] = refused(error)
        peer.send(1, Queue.Declare(queue="q"))
        peer.closed_channel(code, text, Queue.Declare)

    @pytest.mark.parametrize(("error", "text"), [(InUse("consumers"), "in use"), (NotEmpty("messages"), "not empty")])
    def test_not_deleted(self, error: MqliftError, text: str) -> None:
        peer = connected()
        peer.answers[DeleteQueue] = refused(error)
        peer.send(1, Queue.Delete(queue="q", if_unused=True, if_empty=True))
        (delete,) = peer.take(DeleteQueue)
        assert (delete.if_unused, delete.if_empty) == (True, True)
        peer.closed_channel(406, f"PRECONDITION_FAILED - queue 'q' in vhost '/' {text}", Queue.Delete)

    def test_how_many_messages_are_gone(self) -> None:
        peer = connected()
        peer.answers.update({PurgeQueue: Counted(3), DeleteQueue: Counted(4)})
        peer.send(1, Queue.Purge(queue="q"), Queue.Delete(queue="q"))
        assert [each.message_count for each in peer.methods()] == [3, 4]

    @pytest.mark.parametrize(
        ("match", "text"),
        [
            ("some", 'Invalid x-match field value <<"some">>; expected all, any, all-with-x, or any-with-x'),
            (5, "Invalid x-match field type signedint (value 5); expected longstr"),
        ],
    )
    def test_an_unknown_match(self, match: object, text: str) -> None:
        peer = connected()
        peer.answers[Bind] = refused(InvalidArgument("x-match", "means nothing"))
        peer.send(1, Queue.Bind(queue="q", exchange="amq.headers", arguments={"x-match": match}))
        peer.closed_channel(406, f"PRECONDITION_FAILED - {text}", Queue.Bind)


KNOWN_IN_AWS: list[tuple[Any, type]] = [
    (Queue.Bind(queue="q", exchange="x"), Bind),
    (Queue.Purge(queue="q"), PurgeQueue),
    (Basic.Consume(queue="q"), Consume),
    (Basic.Get(queue="q"), Get),
]


@pytest.mark.parametrize(("method", "command"), KNOWN_IN_AWS, ids=lambda each: getattr(each, "name", None))
class TestQueuesThatNobodyHasDeclaredHere:
    def test_may_be_there_in_aws(self, method: Any, command: type) -> None:
        peer = connected()
        peer.answers[command] = lambda _: (
            peer.answers.pop(command),  # the second time it is known
            refused(UnknownQueue("q")),
        )[1]
        peer.send(1, method)
        assert [type(each) for each in peer.done] == [command, DeclareQueue, command]
        assert peer.take(DeclareQueue)[0].presence is Presence.REQUIRED
        assert not any(isinstance(each, Channel.Close) for each in peer.methods())

    def test_or_not(self, method: Any, command: type) -> None:
        peer = connected()
        peer.answers.update({command: refused(UnknownQueue("q")), DeclareQueue: refused(UnknownQueue("q"))})
        peer.send(1, method)
        peer.closed_channel(404, "NOT_FOUND - no queue 'q' in vhost '/'", method)


class TestVirtualHosts:
    def test_names_have_a_prefix_that_clients_do_not_see(self) -> None:
        peer = connected(vhosts={"/": "o."})
        peer.send(1, Queue.Declare(queue="q"), Exchange.Declare(exchange="x"), Queue.Bind(queue="q", exchange="x"))
        assert peer.take(DeclareQueue)[0].queue == "o.q"
        assert peer.take(DeclareExchange)[-1].exchange == "o.x"
        (bind,) = peer.take(Bind)
        assert (bind.queue, bind.exchange) == ("o.q", "o.x")
        peer.received()
        peer.answers[DeclareQueue] = refused(UnknownQueue("o.none"))
        peer.send(1, Queue.Declare(queue="none", passive=True))
        peer.closed_channel(404, "NOT_FOUND - no queue 'none' in vhost '/'", Queue.Declare)

    def test_arguments_that_name_others_too(self) -> None:
        peer = connected(vhosts={"/": "o."})
        arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead", "x-expires": 1}
        peer.send(1, Queue.Declare(queue="q", arguments=arguments))
        assert peer.take(DeclareQueue)[0].spec.arguments == arguments | {"x-dead-letter-routing-key": "o.dead"}
        peer.send(1, Exchange.Declare(exchange="x", arguments={"alternate-exchange": "y"}))
        assert peer.take(DeclareExchange)[-1].spec.arguments == {"alternate-exchange": "o.y"}


def test_a_count_that_does_not_fit_is_the_largest_that_does() -> None:
    peer = connected()
    peer.answers[DeclareQueue] = Counted(2**40, 1)
    peer.send(1, Queue.Declare(queue="q", durable=True))
    assert peer.only(Queue.DeclareOk).message_count == 2**32 - 1
