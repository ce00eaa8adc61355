"""What tests of access control share: a scripted clock, quick stand-ins, and a log to look through."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from gateway import logs
from gateway.auth.pool import CheckPool


class SteppedClock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


@pytest.fixture
def pool() -> Iterator[CheckPool]:
    made = CheckPool("test", threads=2, waiting=20)
    yield made
    made.close()


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Everything that is logged meanwhile, as the gateway logs it."""
    stream = io.StringIO()
    logs.configure(level="debug", output="json", stream=stream)
    yield stream
    structlog.reset_defaults()


@pytest.fixture
def file(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a file, and give its path."""

    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write
