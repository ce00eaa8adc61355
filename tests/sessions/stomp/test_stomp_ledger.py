"""Both ways to acknowledge, against a plain list of what was delivered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.core.backend import Received
from gateway.core.delivery import Delivery
from gateway.core.message import Address, Message
from gateway.protocols.stomp.ledger import CumulativeLedger, IndividualLedger


class Queue:
    name = "q"

    def settle(self, delivery, outcome):
        raise AssertionError("a ledger settles nothing by itself")


steps = st.lists(
    # a delivery, or the settlement of a number, or of it alone
    st.none() | st.tuples(st.integers(-2, 30), st.booleans()),
    max_size=60,
)


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
        wanted, alone = step
        settled = [number for number in model if number == wanted or (cumulative and not alone and number < wanted)]
        if wanted not in model:
            settled = []
        settle = ledger.settle_one if alone else ledger.settle
        assert list(settle(wanted)) == [model.pop(number) for number in settled]
        assert list(ledger.held()) == list(model.values())
