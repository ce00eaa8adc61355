"""What tests need of the machine: without it, they are skipped for a developer, and fail in continuous integration."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def missing(what: str) -> NoReturn:
    """End the test, or what uses a fixture, for want of something that `.ci/run` installs."""
    reason = f"{what} is not installed; .ci/run installs it"
    if "CI" in os.environ:
        pytest.fail(reason)
    pytest.skip(reason)


def need_commands(*commands: str) -> None:
    """All of them have to be on the path."""
    for command in commands:
        if shutil.which(command) is None:
            missing(command)
