from __future__ import annotations

import pytest

from adapters.sqs.backend import SqsBackend, open_backend
from tests.adapters.sqs.scripted_aws import ScriptedAws


@pytest.fixture
def scripted() -> ScriptedAws:
    return ScriptedAws()


@pytest.fixture
def scripted_backend(scripted: ScriptedAws) -> SqsBackend:
    return open_backend(scripted, prefix="", provision="auto")
