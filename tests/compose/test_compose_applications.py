"""Legacy applications on the broker that they were written for, and on mqlift: the same, but for their environment.

The assertions are the same for both. What is more for mqlift is that messages are in SQS, where anybody can see them.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.compose.stack import Broker, Queues, Running, run

StartApplication = Callable[..., Running]

ALARMS = [f"press-1 has {celsius} degrees" for celsius in (71, 72, 73)]


def test_a_device_and_a_worker_meet_over_two_protocols(
    broker: Broker, queues: Queues | None, start: StartApplication
) -> None:
    """MQTT to STOMP and back, and alarms that wait in a queue until somebody works on them."""
    worker = start(broker, "watching", "worker.py", "watch", QUEUE="alarms")
    device = run(broker, "device.py", INTERVAL="0.05", READINGS="30")
    assert worker.wait() == 0, worker.log
    assert [line for line in worker.lines if line.startswith("alarm ")] == [f"alarm {alarm}" for alarm in ALARMS]
    assert device[-2:] == ["command stop", "stopped"]
    assert device[:14] == [f"acknowledged {number}" for number in range(14)]  # the last of them is the third alarm
    if queues is not None:
        assert queues.bodies("alarms", 3) == ALARMS
    worked_on = run(broker, "worker.py", "work", "3", QUEUE="alarms")
    assert sorted(worked_on) == [f"worked on {alarm}" for alarm in ALARMS]
    if queues is not None:
        queues.wait_until_empty("alarms")


def test_orders_are_confirmed_and_worked_on(broker: Broker, queues: Queues | None) -> None:
    orders = [f"order {number}" for number in range(5)]
    assert run(broker, "orders.py", "place", "5", QUEUE="orders") == [f"confirmed {number}" for number in range(5)]
    if queues is not None:
        assert queues.bodies("orders", 5) == orders
    worked_on = run(broker, "orders.py", "work", "5", QUEUE="orders")
    assert sorted(worked_on) == [f"worked on {order}" for order in orders]
    if queues is not None:
        queues.wait_until_empty("orders")


def test_orders_reach_a_worker_of_another_protocol(broker: Broker) -> None:
    """AMQP to STOMP, through one queue."""
    run(broker, "orders.py", "place", "3", QUEUE="orders-for-stomp")
    worked_on = run(broker, "worker.py", "work", "3", QUEUE="orders-for-stomp")
    assert sorted(worked_on) == [f"worked on order {number}" for number in range(3)]


def test_a_price_is_asked_for_and_answered(broker: Broker, start: StartApplication) -> None:
    """RPC: a reply queue of the client's own, and a correlation id."""
    start(broker, "ready", "orders.py", "prices", QUEUE="prices")
    assert run(broker, "orders.py", "quote", "bolt", QUEUE="prices") == ["bolt costs 0.20"]
    assert run(broker, "orders.py", "quote", "widget", QUEUE="prices") == ["widget costs unknown"]
