"""Consumers with selectors whose gateway is killed while messages are laid aside, passed over and under way."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.traffic import Consumers, StompPublisher
from tests.rig.clients import StompClient
from tests.rig.counting import SqsClient, depth
from tests.rig.processes import Gateway
from tests.rig.waiting import wait_for

EACH = 100
COLOURS = ("red", "blue", "green")
"""Nobody's selector takes the last one."""
KILLS = 2


class Publisher(StompPublisher):
    """Bodies begin with their colour, which is a header too."""

    def _send(self, left: list[str]) -> None:
        with StompClient(self._port) as client:
            while left:
                client.send(self._destination, left[0], colour=left[0].split()[0])
                self.acknowledged[left.pop(0)] = 0.0


def test_nothing_is_lost_and_everything_goes_to_one_who_wants_it(
    gateway_factory: Callable[..., Gateway], sqs: SqsClient, queue: str, queue_name: str
) -> None:
    gateway = gateway_factory(
        routes=[{"match": {"queue": queue_name}, "to": [{"sqs": queue_name}], "selectors": {"pass_over": 2}}],
        receiver={"wait": 1, "visibility": 2},
    )
    port = gateway.port("stomp")
    bodies = [f"{colour} {number}" for number in range(EACH) for colour in COLOURS]
    publisher = Publisher(port, f"/queue/{queue_name}")
    with (
        Consumers(port, queue_name, 1, selector="colour = 'red'") as red,
        Consumers(port, queue_name, 1, selector="colour = 'blue'") as blue,
    ):
        part = len(bodies) // (KILLS + 1)
        for kill in range(KILLS):
            publisher.send_all(bodies[kill * part : (kill + 1) * part])
            wait_for(lambda: gateway.metric("mqlift_messages_passed_over_total"), "something is passed over")
            gateway.kill9()
            gateway.start()
        publisher.send_all(bodies[KILLS * part :])
        for consumers, colour in ((red, "red"), (blue, "blue")):
            expected = {body for body in bodies if body.startswith(colour)}
            wait_for(lambda consumers=consumers, expected=expected: consumers.bodies >= expected, colour, 60)  # type: ignore[misc]
            assert consumers.bodies == expected, "and nothing that it does not want"
    with Consumers(port, queue_name, 1) as everything:
        green = {body for body in bodies if body.startswith("green")}
        wait_for(lambda: everything.bodies >= green, "what nobody wanted", 60)
        wait_for(lambda: depth(sqs, queue) == (0, 0), "the queue is empty", 60)
