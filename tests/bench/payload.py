"""What the benchmarks send: a small JSON document, as devices do. Every sender sends the same."""

from __future__ import annotations


def telemetry(number: int, size: int) -> bytes:
    """A reading of exactly `size` bytes. Raises `ValueError` when it does not fit."""
    head = f'{{"sequence":{number:08d},"temperature":21.75,"humidity":48.5,"status":"ok","note":"'
    tail = '"}'
    filling = size - len(head) - len(tail)
    if filling < 0:
        raise ValueError(f"a payload has at least {len(head) + len(tail)} bytes")
    return f"{head}{'x' * filling}{tail}".encode()
