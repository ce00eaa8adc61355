"""The options of a listener."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gateway.protocols.amqp091.settings import Settings


def test_the_defaults_are_rabbitmq_s() -> None:
    settings = Settings()
    assert (settings.frame_max, settings.channel_max, settings.heartbeat) == (131_072, 2_047, 60)
    assert settings.vhosts == {"/": ""}


@pytest.mark.parametrize(
    "settings",
    [
        {"frame_max": 4095},
        {"channel_max": 0},
        {"channel_max": 65_536},
        {"heartbeat": -1},
        {"vhosts": {}},
        {"mechanisms": ("CRAM-MD5",)},
        {"mechanisms": ()},
        {"unlimited_prefetch": 0},
        {"unknown": 1},
        {"vhost_users": {"nowhere": ["ann"]}},
    ],
)
def test_what_cannot_be(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate(settings)
