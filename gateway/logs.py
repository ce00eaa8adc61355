"""Logging of a gateway: one stream, each line one event with its fields, for eyes or for machines.

Our own lines come through structlog, those of libraries through `logging`; both leave by the same handler, so they
look alike and never mix within a line.
"""

from __future__ import annotations

import logging
import logging.handlers
import sys
from pathlib import Path
from typing import Final, Literal, TextIO, TypeAlias

import structlog
from structlog.typing import Processor

from config.settings import LogSettings
from gateway.core.audit import LOGGER as AUDIT
from gateway.core.errors import ConfigError

Level: TypeAlias = Literal["debug", "info", "warning", "error"]
Format: TypeAlias = Literal["console", "json"]

OURS: Final = ("mqlift", "gateway", "adapters", "config")
"""Loggers that follow the configured level; everything else is a library and is heard from WARNING up."""


def configure(
    *,
    level: Level = "info",
    output: Format = "console",
    stream: TextIO | None = None,
    audit: bool = True,
    audit_file: Path | None = None,
) -> None:
    """Route all logging of this process to `stream` (standard error if None), replacing what was set up before.

    The audit log, if it is wanted, goes with the rest, or to a file of its own. Raises `ConfigError` for that file.
    """
    _route_audit(audit, audit_file)
    stream = sys.stderr if stream is None else stream
    handler = logging.StreamHandler(stream)
    handler.setFormatter(_formatter(_renderers(output, colors=stream.isatty())))
    _route_libraries(handler)
    numeric = logging.getLevelNamesMapping()[level.upper()]
    for name in OURS:
        logging.getLogger(name).setLevel(numeric)
    structlog.configure(
        processors=[*_common_processors(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(numeric),
        cache_logger_on_first_use=False,
    )


def configure_by(settings: LogSettings) -> None:
    """As the settings say. Raises `ConfigError`."""
    configure(level=settings.level, output=settings.format, audit=settings.audit, audit_file=settings.audit_file)


def _formatter(renderers: list[Processor]) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_common_processors(),
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
    )


def _route_audit(wanted: bool, file: Path | None) -> None:
    """Its level is its own: it tells what it tells however little the log is to say."""
    logger = logging.getLogger(AUDIT)
    handler: logging.Handler | None = None
    if wanted and file is not None:
        try:
            handler = logging.handlers.WatchedFileHandler(file)  # a rotated file is noticed
        except OSError as error:
            problem = f"{file} cannot be written: {error.strerror}"
            raise ConfigError(
                "log.audit_file", problem, "a file in a directory that exists and may be written"
            ) from error
        handler.setFormatter(_formatter(_renderers("json", colors=False)))
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    if handler is not None:
        logger.addHandler(handler)
    logger.propagate = handler is None
    logger.setLevel(logging.INFO if wanted else logging.CRITICAL + 1)


def _route_libraries(handler: logging.Handler) -> None:
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.captureWarnings(True)


def _common_processors() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]


def _renderers(output: Format, *, colors: bool) -> list[Processor]:
    """Neither form shows the local variables of a traceback: they hold payloads and credentials."""
    if output == "console":
        return [
            structlog.dev.ConsoleRenderer(
                colors=colors, exception_formatter=structlog.dev.plain_traceback, sort_keys=False
            )
        ]
    tracebacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
    return [structlog.processors.ExceptionRenderer(tracebacks), structlog.processors.JSONRenderer()]
