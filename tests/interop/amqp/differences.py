"""Where mqlift answers otherwise than RabbitMQ, and why. `docs/compatibility.md` says what an application sees."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """`instead` maps lines that RabbitMQ gives to those that mqlift gives, none of them for a line that is left out.

    `rewritten` are pairs of a regular expression and what becomes of it, for the lines that `instead` leaves alone.
    """

    reason: str
    instead: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    rewritten: tuple[tuple[str, str], ...] = ()
    any_order: bool = False
    """Deliveries come in any order, and are numbered as they come."""

    def applied(self, expected: list[str]) -> list[str]:
        """What mqlift has to give. `AssertionError` when RabbitMQ does not give what is replaced."""
        missing = self.instead.keys() - set(expected)
        missing |= {pattern for pattern, _ in self.rewritten if not any(re.search(pattern, line) for line in expected)}
        if missing:
            raise AssertionError(f"not what RabbitMQ gives: {sorted(missing)}")
        return [line for each in expected for line in self.instead.get(each, (self._rewrite(each),))]

    def _rewrite(self, line: str) -> str:
        for pattern, text in self.rewritten:
            line = re.sub(pattern, text, line)
        return line

    def comparable(self, lines: list[str]) -> list[str]:
        """Lines that are to be equal."""
        return sorted(re.sub(r" delivery_tag=\d+", "", line) for line in lines) if self.any_order else lines


def _close(code: int, name: str, text: str, class_id: int = 0, method_id: int = 0, quote: str = "'") -> str:
    reply = f"{quote}{name} - {text}{quote}" if text else f"'{name}'"
    return f"1.0 connection.close reply_code={code} reply_text={reply} class_id={class_id} method_id={method_id}"


def _refused(text: str, class_id: int = 50, method_id: int = 10) -> str:
    reply = f'"PRECONDITION_FAILED - {text}"'
    return f"1.1 channel.close reply_code=406 reply_text={reply} class_id={class_id} method_id={method_id}"


_ENDS = "1.0 the connection ends"
_IN_Q = "for queue 'q' in vhost '/'"

_MALFORMED = "what no client sends: RabbitMQ shows its own terms, or ends without a word"
_WIDTH = "the width of an integer is not kept"
_AGAIN = "redelivered messages have the number of deliveries before, as RabbitMQ's quorum queues count them"
_LAST_DEATH = "x-last-death-… are those of RabbitMQ 3.13; 3.10 has none"

_SECOND_TIME = (r"(redelivered=True .* body='[^']*')$", r"\1 headers={x-delivery-count: 1}")
_DIED = (
    r"x-first-death-exchange: ('[^']*'), x-first-death-queue: ('[^']*'), x-first-death-reason: ('[^']*')",
    r"\g<0>, x-last-death-exchange: \1, x-last-death-queue: \2, x-last-death-reason: \3",
)

_CUT_OFF = Difference(
    reason=_MALFORMED,
    instead={
        _close(501, "FRAME_ERROR", "cannot decode <<0,0,5>>", 60, 40): (
            _close(502, "SYNTAX_ERROR", "BasicPublish: a field is longer than what holds it", 60, 40),
        )
    },
)
_PROPERTIES_CUT_OFF = Difference(
    reason=_MALFORMED,
    instead={
        _close(541, "INTERNAL_ERROR", ""): (_close(502, "SYNTAX_ERROR", "a field is longer than what holds it"),),
    },
)
_REJECTED_AGAIN = Difference(
    reason=_AGAIN,
    instead={
        "2.1 basic.deliver consumer_tag='c' delivery_tag=3 redelivered=True exchange='' routing_key='q' body='one'": (
            (
                "2.1 basic.deliver consumer_tag='c' delivery_tag=3 redelivered=True exchange='' routing_key='q' "
                "body='one' headers={x-delivery-count: 2}"
            ),
        )
    },
    rewritten=(_SECOND_TIME,),
)

_OF_DURABLE_QUEUES: Mapping[str, Difference] = {
    "consuming-requeued_comes_back_to_the_front": Difference(
        reason="a standard queue of SQS has no front", rewritten=(_SECOND_TIME,), any_order=True
    ),
    "deadletter-expired_at_once_with_a_consumer": Difference(
        reason="on its way through SQS every message waits, so its time is over before a consumer can have it",
        instead={
            "1.1 basic.deliver consumer_tag='c' delivery_tag=1 redelivered=False exchange='' routing_key='q' "
            "body='now or never' expiration='0'": ("99.0 the scenario waits in vain: no channel 1: Basic.Deliver",),
        },
    ),
    "deadletter-expired_and_nobody_wants_it": Difference(
        reason="SQS counts what has expired until somebody asks for it",
        instead={"1.1 depth of q: 0": ("1.1 depth of q: 1",)},
    ),
    "deadletter-too_many_bytes": Difference(
        reason="a queue in SQS does not know its bytes",
        instead={
            "1.1 basic.get-ok delivery_tag=1 redelivered=False exchange='dlx' routing_key='q' message_count=0 "
            "body='12345678' headers={x-death: [{count: 1, exchange: '', queue: 'q', reason: 'maxlen', "
            "routing-keys: ['q'], time: <time>}], x-first-death-exchange: '', x-first-death-queue: 'q', "
            "x-first-death-reason: 'maxlen'}": (
                _refused(
                    f"invalid arg 'x-max-length-bytes' {_IN_Q}: a queue in AWS does not know its bytes; x-max-length "
                    "counts messages"
                ),
            )
        },
    ),
    "deadletter-priorities": Difference(
        reason="a queue in SQS has five levels of priority, whatever it asks for",
        instead={
            "1.1 basic.get-ok delivery_tag=4 redelivered=False exchange='' routing_key='q' message_count=1 "
            "body='priority 1' priority=1": (
                (
                    "1.1 basic.get-ok delivery_tag=4 redelivered=False exchange='' routing_key='q' message_count=1 "
                    "body='priority None'"
                ),
            ),
            "1.1 basic.get-ok delivery_tag=5 redelivered=False exchange='' routing_key='q' message_count=0 "
            "body='priority None'": (
                (
                    "1.1 basic.get-ok delivery_tag=5 redelivered=False exchange='' routing_key='q' message_count=0 "
                    "body='priority 1' priority=1"
                ),
            ),
        },
        any_order=True,
    ),
}

_OF_VIRTUAL_QUEUES: Mapping[str, Difference] = {
    "consuming-requeued_comes_back_to_the_front": Difference(reason=_AGAIN, rewritten=(_SECOND_TIME,)),
    "deadletter-too_many_bytes": Difference(reason=_LAST_DEATH, rewritten=(_DIED,)),
}

_OF_ALL_QUEUES: Mapping[str, Difference] = {
    "publishing-properties_that_are_cut_off": _PROPERTIES_CUT_OFF,
    "publishing-method_that_is_cut_off": _CUT_OFF,
    "consuming-rejected_and_requeued": _REJECTED_AGAIN,
    **dict.fromkeys(
        (
            "consuming-get",
            "consuming-many_are_requeued_at_once",
            "consuming-unacknowledged_come_back_after_the_channel",
            "consuming-unacknowledged_come_back_after_a_lost_connection",
            "consuming-recover_with_requeue",
        ),
        Difference(reason=_AGAIN, rewritten=(_SECOND_TIME,)),
    ),
    **dict.fromkeys(
        (
            "deadletter-rejected",
            "deadletter-rejected_with_a_routing_key",
            "deadletter-rejected_twice",
            "deadletter-expired_in_the_queue",
            "deadletter-expired_by_itself",
            "deadletter-expired_at_once_without_a_consumer",
            "deadletter-crowded_out",
            "deadletter-too_many_are_refused_and_dead_lettered",
            "deadletter-delivered_too_often",
            "deadletter-expired_behind_one_that_is_not",
        ),
        Difference(reason=_LAST_DEATH, rewritten=(_DIED,)),
    ),
}

DIFFERENCES: Mapping[str, Difference] = {
    **_OF_ALL_QUEUES,
    **{f"{name}-transient": difference for name, difference in (_OF_ALL_QUEUES | _OF_VIRTUAL_QUEUES).items()},
    **_OF_DURABLE_QUEUES,
    "connection-frame_too_large": Difference(
        reason=_MALFORMED,
        instead={
            _close(501, "FRAME_ERROR", "type 1, all octets = <<>>: {frame_too_large,9000,8184}"): (
                _close(501, "FRAME_ERROR", "a frame of 9008 bytes; frame-max is 8192"),
            )
        },
    ),
    "connection-frame_of_an_unknown_type": Difference(
        reason=_MALFORMED,
        instead={
            _close(501, "FRAME_ERROR", 'type 7, all octets = <<"x">>: unknown_frame'): (
                _close(501, "FRAME_ERROR", "a frame of unknown type 7"),
            )
        },
    ),
    "connection-frame_without_its_end": Difference(
        reason=_MALFORMED,
        instead={
            _close(
                501, "FRAME_ERROR", "type 1, all octets = <<0,60,0,10,0,0,0,0,0,0,0>>: {invalid_frame_end_marker,0}"
            ): (_close(501, "FRAME_ERROR", "a frame ends with 0x00, not with 0xCE"),)
        },
    ),
    "connection-unknown_method": Difference(
        reason=_MALFORMED,
        instead={_ENDS: (_close(540, "NOT_IMPLEMENTED", "there is no method 99 of class 60", 60, 99), _ENDS)},
    ),
    "connection-unknown_class": Difference(
        reason=_MALFORMED,
        instead={_ENDS: (_close(540, "NOT_IMPLEMENTED", "there is no method 1 of class 99", 99, 1), _ENDS)},
    ),
    "connection-table_that_is_cut_off": Difference(
        reason=_MALFORMED,
        instead={
            _close(501, "FRAME_ERROR", "cannot decode <<0,0,1,113,2,0,0,0,255,1>>", 50, 10): (
                _close(502, "SYNTAX_ERROR", "QueueDeclare: a field is longer than what holds it", 50, 10),
            )
        },
    ),
    "connection-table_with_an_unknown_type": Difference(
        reason=_MALFORMED,
        instead={
            _ENDS: (
                _close(502, "SYNTAX_ERROR", "QueueDeclare: a table value of unknown type b'Q'", 50, 10, quote='"'),
                _ENDS,
            )
        },
    ),
    "connection-name_that_is_not_utf_8": Difference(
        reason=_MALFORMED,
        instead={
            _close(501, "FRAME_ERROR", "Malformed UTF-8 in shortstr"): (
                _close(502, "SYNTAX_ERROR", "QueueDeclare: a short string is not UTF-8", 50, 10),
            )
        },
    ),
    "topology-queue_declared_otherwise": Difference(
        reason=_WIDTH, rewritten=((r"'unsignedshort'", "'signedint'"), (r"'byte'", "'signedint'"))
    ),
    "topology-invalid_queue_arguments": Difference(
        reason=_WIDTH,
        instead={
            _refused("invalid type 'byte' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'"): (
                _refused(f"invalid arg 'x-dead-letter-exchange' {_IN_Q}: {{unacceptable_type,long}}"),
            )
        },
        rewritten=((r"\{unacceptable_type,byte\}", "{unacceptable_type,long}"),),
    ),
    "topology-quorum_queue_arguments": Difference(
        reason="all of a quorum queue's properties are in one text; RabbitMQ 4 has priorities in quorum queues",
        instead={
            _refused(f"invalid property '{theirs}' for queue '{queue}' in vhost '/'"): (
                _refused(
                    f"invalid arg '{ours}' for queue '{queue}' in vhost '/': a quorum queue is durable, and neither "
                    "exclusive nor auto-delete"
                ),
            )
            for theirs, ours, queue in (
                ("non-durable", "durable", "transient"),
                ("exclusive-owner", "exclusive", "own"),
                ("auto-delete", "auto-delete", "auto"),
            )
        }
        | {
            _refused("invalid arg 'x-max-priority' for queue 'high' in vhost '/' of queue type rabbit_quorum_queue"): (
                "1.1 queue.declare-ok queue='high' message_count=0 consumer_count=0",
            )
        },
    ),
    "topology-delivery_limit_of_a_classic_queue": Difference(
        reason="every queue counts deliveries, so every queue may have a limit",
        instead={
            _refused(f"invalid arg 'x-delivery-limit' {_IN_Q} of queue type rabbit_classic_queue"): (
                "1.1 queue.declare-ok queue='q' message_count=0 consumer_count=0",
            )
        },
    ),
    "topology-invalid_exchange_arguments": Difference(reason=_WIDTH, rewritten=((r"'byte'", "'signedint'"),)),
    "topology-headers_binding_with_an_unknown_match": Difference(
        reason=_WIDTH, rewritten=((r"type byte ", "type signedint "),)
    ),
}
"""By the scenario, as `str` gives it."""
