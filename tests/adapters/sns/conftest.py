from __future__ import annotations

import pytest

from adapters.sns.backend import SnsBackend, open_backend
from tests.adapters.sns.scripted_sns import ScriptedSns


@pytest.fixture
def sns() -> ScriptedSns:
    return ScriptedSns()


@pytest.fixture
def backend(sns: ScriptedSns) -> SnsBackend:
    return open_backend(sns, prefix="", provision="auto")
