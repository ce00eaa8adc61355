"""Configuration files to write in a line, and an environment without ours."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from config.mistakes import ConfigErrors
from config.settings import Settings, load


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.upper().startswith("MQLIFT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write_file(text: str) -> Path:
        path = tmp_path / "gateway.yaml"
        path.write_text(text)
        return path

    return write_file


@pytest.fixture
def read(write: Callable[[str], Path]) -> Callable[[str], Settings]:
    return lambda text: load(write(text))


@pytest.fixture
def mistakes(write: Callable[[str], Path]) -> Callable[[str], list[str]]:
    """The lines that a file is refused with, without the file's name in front."""

    def lines(text: str) -> list[str]:
        path = write(text)
        with pytest.raises(ConfigErrors) as caught:
            load(path)
        return [line.removeprefix(f"{path}: ") for line in str(caught.value).splitlines()]

    return lines
