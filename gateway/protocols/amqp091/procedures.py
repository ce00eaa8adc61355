"""Methods that have to wait for the hub."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias

from gateway.core.commands import ControlCommand, Get
from gateway.core.outcome import Result

Procedure: TypeAlias = Generator[ControlCommand | Get | None, Result, None]
"""Gives the commands that a method needs, one by one, and is sent the answer of each; all have the channel's token.
With None it waits for an answer to what was asked for otherwise. Raises `AmqpError`."""
