"""Both ways to acknowledge, against a plain list of what was delivered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.backend import Received
from gateway.core.message import Address, Message
from gateway.core.session import Delivery
from gateway.protocols.stomp.ledger import CumulativeLedger, IndividualLedger


class Queue:
    name = "q"

    def settle(self, delivery, outcome):
        raise AssertionError("a ledger settles nothing by itself")


steps = st.lists(st.none() | st.integers(-2, 30), max_size=60)  # a delivery, or the settlement of a number


def delivery(number):
    return Delivery(Received(Message(Address("", "q"), b""), f"receipt {number}"), Queue())


@given(steps, st.booleans())
def test_as_a_list_would(steps, cumulative):
    ledger = CumulativeLedger() if cumulative else IndividualLedger()
    model = {}
    delivered = 0
    for step in steps:
        if step is None:
            delivered += 1
            model[delivered] = delivery(delivered)
            ledger.hold(delivered, model[delivered])
            continue
        settled = [number for number in model if number == step or (cumulative and number < step)]
        if step not in model:
            settled = []
        assert list(ledger.settle(step)) == [model.pop(number) for number in settled]
        assert list(ledger.held()) == list(model.values())
