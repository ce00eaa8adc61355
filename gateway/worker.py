"""`python -m gateway.worker CONFIG NUMBER SOCKET`: one of several workers; started by `gateway/workers.py` only."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import structlog

from gateway import cli


def main() -> None:
    """Run one worker to its end."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it is up, what it reads is new anyway
    config, number, socket = sys.argv[1:]
    structlog.contextvars.bind_contextvars(worker=int(number))
    cli.serve_worker(Path(config), int(number), Path(socket))


if __name__ == "__main__":
    main()
