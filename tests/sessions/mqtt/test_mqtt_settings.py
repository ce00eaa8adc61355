from __future__ import annotations

import pytest
from pydantic import ValidationError

from gateway.protocols.mqtt.settings import Settings


def test_defaults_take_what_sqs_takes() -> None:
    assert Settings().max_packet_size > 1024 * 1024
    assert Settings().delivery_window <= 65_535


@pytest.mark.parametrize(
    "wrong",
    [
        {"delivery_window": 0},
        {"delivery_window": 65_536},
        {"max_packet_size": 268_435_461},
        {"max_client_id_bytes": 22},
    ],
)
def test_values_that_the_protocol_has_no_room_for(wrong: dict[str, int]) -> None:
    """[MQTT-3.1.3-5] A client identifier of 23 bytes must be taken."""
    with pytest.raises(ValidationError):
        Settings(**wrong)


def test_unknown_options() -> None:
    with pytest.raises(ValidationError, match="max_packets"):
        Settings.model_validate({"max_packets": 1})
