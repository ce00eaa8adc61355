"""Damage: what happens to bytes on the way from a correct program to a parser."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

Mutator: TypeAlias = Callable[[random.Random, bytearray, bytes], None]
"""Changes a buffer, which is not empty, in place. The last argument is other input of the same kind, to take from."""

MAX_BYTES: Final = 1 << 16
"""Of what comes out: repeated repetition would leave nothing but length to test."""

_EDGES: Final = (0, 1, 2, 3, 4, 9, 10, 13, 31, 32, 58, 92, 126, 127, 128, 129, 192, 254, 255)
_LENGTHS: Final = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x3FFF, 0x4000, 0x7FFF, 0x8000, 0xFFFE, 0xFFFF)
_HUGE_VARIABLE_INTS: Final = (
    b"\xff\xff\xff\x7f",
    b"\xff\xff\xff\xff",
    b"\x80\x80\x80\x80\x01",
    b"\x80\x80\x00",
    b"\x80\x00",
)
_HUGE_DECIMALS: Final = (
    b"99999999999999999999",
    b"9" * 5000,
    b"-1",
    b"+1",
    b"1e9",
    b" 1",
    b"0x10",
    b"4294967296",
    "٣".encode(),
)
_BAD_UTF8: Final = (
    b"\xff",
    b"\xc0\x80",  # overlong NUL
    b"\xe0\x80\xaf",  # overlong slash
    b"\xed\xa0\x80",  # a surrogate
    b"\xf4\x90\x80\x80",  # over U+10FFFF
    b"\xf0\x9f\x92",  # cut off
    b"\x80",
    b"\0",
    b"\xef\xbb\xbf",  # a byte order mark: legal
    "\u202e\x7f\x85".encode(),
)


def _flip_bits(rng: random.Random, data: bytearray, spare: bytes) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _set_bytes(rng: random.Random, data: bytearray, spare: bytes) -> None:
    for _ in range(rng.choice((1, 1, 3))):
        data[rng.randrange(len(data))] = rng.choice(_EDGES)


def _truncate(rng: random.Random, data: bytearray, spare: bytes) -> None:
    del data[rng.randrange(len(data)) :]


def _behead(rng: random.Random, data: bytearray, spare: bytes) -> None:
    del data[: rng.randint(1, min(len(data), 8))]


def _drop(rng: random.Random, data: bytearray, spare: bytes) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice((1, 1, 2, 4, 16))]


def _insert_noise(rng: random.Random, data: bytearray, spare: bytes) -> None:
    at = rng.randint(0, len(data))
    data[at:at] = rng.randbytes(rng.choice((1, 1, 2, 4, 32)))


def _repeat(rng: random.Random, data: bytearray, spare: bytes) -> None:
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 2, 4, 16, 64)))
    data[end:end] = data[start:end] * rng.choice((1, 1, 3, 20, 500))


def _splice(rng: random.Random, data: bytearray, spare: bytes) -> None:
    data[rng.randint(0, len(data)) :] = spare[rng.randint(0, len(spare)) :]


def _insert_spare(rng: random.Random, data: bytearray, spare: bytes) -> None:
    at, start = rng.randint(0, len(data)), rng.randint(0, len(spare))
    data[at:at] = spare[start : start + rng.choice((1, 4, 16, 64))]


def _lie_about_length(rng: random.Random, data: bytearray, spare: bytes) -> None:
    at = rng.randrange(len(data))
    told = int.from_bytes(data[at : at + 2], "big")
    lie = rng.choice((*_LENGTHS, told + 1, told - 1, told * 2)) & 0xFFFF
    data[at : at + 2] = lie.to_bytes(2, "big")


def _insert_huge_variable_int(rng: random.Random, data: bytearray, spare: bytes) -> None:
    at = rng.randint(0, len(data))
    data[at : at + rng.randint(0, 2)] = rng.choice(_HUGE_VARIABLE_INTS)


def _damage_number(rng: random.Random, data: bytearray, spare: bytes) -> None:
    """Of those that are written in digits."""
    digits = [at for at, byte in enumerate(data) if 48 <= byte <= 57]
    if digits:
        at = rng.choice(digits)
        data[at : at + rng.randint(0, 2)] = rng.choice(_HUGE_DECIMALS)


def _damage_utf8(rng: random.Random, data: bytearray, spare: bytes) -> None:
    at = rng.randint(0, len(data))
    data[at : at + rng.randint(0, 3)] = rng.choice(_BAD_UTF8)


def _reverse(rng: random.Random, data: bytearray, spare: bytes) -> None:
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((2, 4, 16)))
    data[start:end] = data[start:end][::-1]


MUTATORS: Final[Sequence[Mutator]] = (
    _flip_bits,
    _set_bytes,
    _truncate,
    _behead,
    _drop,
    _insert_noise,
    _repeat,
    _splice,
    _insert_spare,
    _lie_about_length,
    _insert_huge_variable_int,
    _damage_number,
    _damage_utf8,
    _reverse,
)


def mutate(rng: random.Random, data: bytes, spare: bytes) -> bytes:
    """The same input after one to four accidents."""
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if damaged:
            rng.choice(MUTATORS)(rng, damaged, spare)
    return bytes(damaged[:MAX_BYTES])
