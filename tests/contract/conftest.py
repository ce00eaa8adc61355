"""The backends that the contract suite runs over, each as its adapter folder offers it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Protocol

import pytest

import adapters.memory.backend
import adapters.memory.settings
import adapters.sqs.backend
import adapters.sqs.settings
from adapters.aws.api import AwsClient
from adapters.aws.client import open_client
from adapters.aws.settings import AwsSettings
from gateway.core.backend import NO_CAPTURES, Backend, Provision, Target
from tests.rig.processes import AWS_ENVIRONMENT, Ministack


class OpenBackend(Protocol):
    def __call__(self, aws: AwsClient | None, *, prefix: str, provision: Provision) -> Backend: ...


class Service:
    """One kind of backend under test, and queues of it that no other test uses."""

    def __init__(self, backend: ModuleType, settings: ModuleType, aws: AwsClient | None, queue_name: str) -> None:
        self._open: OpenBackend = backend.open_backend
        self._settings = settings
        self._aws = aws
        self.kind: str = settings.KIND
        self.name = queue_name

    def open(self, *, prefix: str = "", provision: Provision = "auto") -> Backend:
        return self._open(self._aws, prefix=prefix, provision=provision)

    def target(self, suffix: str = "", *, captures: Mapping[str, str] = NO_CAPTURES, **options: object) -> Target:
        """A rule's target for a queue of this test, which the hub calls `hub-queue`."""
        target: Target = self._settings.parse_target(self.name + suffix, options, frozenset(captures))
        return replace(target, queue="hub-queue", captures=captures)


@pytest.fixture
async def aws(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[AwsClient]:
    """A client of the emulator."""
    ministack: Ministack = request.getfixturevalue("ministack")
    for name, value in AWS_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    client = await open_client(AwsSettings(region="us-east-1", endpoint_url=ministack.url))
    yield client
    await client.aclose()


@pytest.fixture
def memory_service(queue_name: str) -> Service:
    return Service(adapters.memory.backend, adapters.memory.settings, None, queue_name)


@pytest.fixture
def sqs_service(aws: AwsClient, queue_name: str) -> Service:
    return Service(adapters.sqs.backend, adapters.sqs.settings, aws, queue_name)


@pytest.fixture(params=["memory", "sqs"])
def service(request: pytest.FixtureRequest) -> Service:
    chosen: Service = request.getfixturevalue(f"{request.param}_service")
    return chosen


@pytest.fixture
def backend(service: Service) -> Backend:
    return service.open()
