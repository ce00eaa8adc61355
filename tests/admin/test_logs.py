"""Logging: one line an event, libraries included, and nothing of a traceback's variables."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from gateway import logs


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in logs.OURS}
    yield
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, old in levels.items():
        logging.getLogger(name).setLevel(old)
    structlog.reset_defaults()


def events(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_line_holds_event_level_logger_time_and_fields() -> None:
    stream = io.StringIO()
    logs.configure(output="json", stream=stream)
    structlog.get_logger("mqlift.net").info("connection_opened", peer="192.0.2.1:5")
    [event] = events(stream)
    assert event.pop("timestamp")
    assert event == {"event": "connection_opened", "level": "info", "logger": "mqlift.net", "peer": "192.0.2.1:5"}


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_level_cuts_our_lines(level: logs.Level, heard: list[str]) -> None:
    stream = io.StringIO()
    logs.configure(level=level, output="json", stream=stream)
    log = structlog.get_logger("mqlift.x")
    log.debug("debug")
    log.info("info")
    log.warning("warning")
    log.error("error")
    assert [event["event"] for event in events(stream)] == heard


def test_libraries_are_heard_from_warning_up_even_when_we_debug() -> None:
    stream = io.StringIO()
    logs.configure(level="debug", output="json", stream=stream)
    logging.getLogger("aiobotocore.endpoint").debug("the whole request, with its payload")
    logging.getLogger("asyncio").info("Using selector")
    logging.getLogger("aiohttp.server").warning("slow %s", "handler")
    [event] = events(stream)
    assert (event["event"], event["logger"], event["level"]) == ("slow handler", "aiohttp.server", "warning")


def test_python_warnings_are_log_lines() -> None:
    stream = io.StringIO()
    logs.configure(output="json", stream=stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old ways", UserWarning, stacklevel=1)
    [event] = events(stream)
    assert event["logger"] == "py.warnings"
    assert "old ways" in str(event["event"])


def raise_with_secret_local() -> None:
    password = "hunter2"
    raise ValueError("bad login of length " + str(len(password)))


@pytest.mark.parametrize("output", ["console", "json"])
@pytest.mark.parametrize("through", ["structlog", "logging"])
def test_exception_is_told_without_local_variables(output: logs.Format, through: str) -> None:
    stream = io.StringIO()
    logs.configure(output=output, stream=stream)
    try:
        raise_with_secret_local()
    except ValueError:
        if through == "structlog":
            structlog.get_logger("mqlift.x").exception("login_failed")
        else:
            logging.getLogger("asyncio").exception("login_failed")
    text = stream.getvalue()
    assert "bad login of length 7" in text
    assert "raise_with_secret_local" in text
    assert "hunter2" not in text.replace('password = "hunter2"', "")  # the source line may be quoted, not the value


def test_exception_is_one_field_in_json() -> None:
    stream = io.StringIO()
    logs.configure(output="json", stream=stream)
    try:
        raise_with_secret_local()
    except ValueError:
        structlog.get_logger("mqlift.x").exception("login_failed")
    [event] = events(stream)
    [exception] = event["exception"]  # type: ignore[misc]
    assert exception["exc_type"] == "ValueError"
    assert exception["exc_value"] == "bad login of length 7"


def test_any_value_can_be_logged_as_json() -> None:
    stream = io.StringIO()
    logs.configure(output="json", stream=stream)
    structlog.get_logger("mqlift.x").info("odd", raw=b"\xff", broken="\ud800", big=1 << 80, members={1})
    [event] = events(stream)
    assert (event["raw"], event["broken"], event["big"], event["members"]) == (r"b'\xff'", "\ud800", 1 << 80, "{1}")


def test_configuring_again_replaces_the_stream() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure(output="json", stream=first)
    logs.configure(output="json", stream=second)
    structlog.get_logger("mqlift.x").info("once")
    assert first.getvalue() == ""
    assert len(events(second)) == 1


async def test_unretrieved_task_exceptions_are_told() -> None:
    stream = io.StringIO()
    logs.configure(output="json", stream=stream)
    asyncio.get_running_loop().call_exception_handler({"message": "something broke", "exception": OSError("gone")})
    [event] = events(stream)
    assert event["logger"] == "asyncio"
    assert "something broke" in str(event["event"])
