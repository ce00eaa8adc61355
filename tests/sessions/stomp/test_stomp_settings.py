"""A listener's options."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from gateway.core.session import SessionContext
from gateway.protocols.stomp.session import open_session
from gateway.protocols.stomp.settings import Settings


@pytest.mark.parametrize(
    "options",
    [
        {"dialect": "artemis"},
        {"max_bodies": 1},
        {"max_headers": 0},
        {"default_prefetch": 10, "max_prefetch": 9},
        {"heart_beat_tolerance": 0.5},
    ],
)
def test_refused(options):
    with pytest.raises(ValidationError):
        Settings(**options)


def test_a_session_takes_no_others():
    with pytest.raises(TypeError):
        open_session(SessionContext(peer="p", server="s", settings={"dialect": "rabbitmq"}), 0.0)
