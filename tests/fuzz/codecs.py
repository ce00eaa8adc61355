"""Codecs as targets: whatever comes in, in whatever pieces, frames come out, or the error that is documented."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Final

from gateway.protocols.mqtt.codec import UNKNOWN_LEVEL, Decoder, encode
from gateway.protocols.mqtt.errors import PacketError
from gateway.protocols.mqtt.packets import Packet
from gateway.protocols.stomp.codec import CONNECT_COMMANDS, Frame, FrameLimits, FrameParser, encode_frame
from gateway.protocols.stomp.errors import StompError
from gateway.protocols.stomp.versions import UNESCAPED, V1_0, V1_1, V1_2, Version
from tests.fuzz import mqtt_packets, stomp_frames
from tests.fuzz.cases import Case, Step, Violation, cut, often
from tests.fuzz.footprint import footprint
from tests.fuzz.mutations import MAX_BYTES

FEED: Final = "feed"
VERSIONS: Final[Sequence[Version]] = (V1_0, V1_1, V1_2)

END: Final = b"\n\n\0"
"""Ends headers and body of any STOMP frame, but not a body whose length was told."""

NO_LIMIT: Final = 1 << 28
OBJECTS: Final = 4096
"""Bytes of a parser that has nothing in it."""

CPU_SECONDS: Final = 2.0
"""For one case, whose input is a few hundred KiB at most: a thousand times what linear work takes."""


class Deadline:
    """Work that grows faster than its input shows as time. Used as `with Deadline():` around a run."""

    def __enter__(self) -> None:
        self._start = time.process_time()

    def __exit__(self, *_: object) -> None:
        taken = time.process_time() - self._start
        if taken > CPU_SECONDS:
            raise Violation(f"it took {taken:.1f} s of CPU time")


def feeds(rng: random.Random, frames: Sequence[bytes]) -> tuple[Step, ...]:
    """All of it at once, in a few pieces, or byte by byte."""
    data = b"".join(frames)[: 4 * MAX_BYTES]
    pieces = often(rng, {1: 2, 4: 6, len(data): 1 if len(data) < 2000 else 0})
    return tuple((FEED, piece) for piece in cut(rng, data, pieces))


def pieces(case: Case) -> list[bytes]:
    return [value for kind, value in case.steps if kind == FEED and isinstance(value, bytes)]


class MqttCodec:
    """`Decoder` and `encode`, at every level, as a server and as a client."""

    name = "mqtt-codec"

    def generate(self, rng: random.Random) -> Case:
        level = often(rng, mqtt_packets.LEVELS)
        maker = mqtt_packets.PacketMaker(rng, level)
        known = rng.random() < 0.6
        packets = [maker.packet() for _ in range(rng.randint(1, 6))]
        wires = [encode(packet, level) for packet in (packets if known else [maker.connect(), *packets])]
        spare = encode(maker.packet(), level)
        share = rng.choice((0.0, 0.3, 1.0))
        wires = [mqtt_packets.damage(rng, wire, spare) if rng.random() < share else wire for wire in wires]
        options = {"level": level if known else UNKNOWN_LEVEL, "limit": rng.choice((NO_LIMIT, 70_000, 64))}
        return Case(target=self.name, options=options, steps=feeds(rng, wires))

    def run(self, case: Case) -> None:
        level, limit = case.options["level"], case.options["limit"]
        with Deadline():
            whole = self._read([b"".join(pieces(case))], level, limit)
            cut_up = self._read(pieces(case), level, limit)
        if whole != cut_up:
            raise Violation(f"in pieces {cut_up!r:.300}, at once {whole!r:.300}")
        for packet, written_at in whole[0]:
            self._write_and_read(packet, written_at)

    def _read(self, data: Sequence[bytes], level: int, limit: int) -> tuple[list[tuple[Packet, int]], str]:
        """The packets, each with its level, and the error that came instead of the next."""
        decoder = Decoder(limit, level)
        packets = []
        for piece in data:
            decoder.feed(piece)
            try:
                while (packet := decoder.next_packet()) is not None:
                    packets.append((packet, decoder.level))
            except PacketError as error:
                return packets, f"{error.reason_code.name}: {error}"
        kept = footprint(decoder)
        if kept > OBJECTS + min(limit, 2 * sum(map(len, data))):
            raise Violation(f"{kept} bytes are kept of at most {limit}")
        return packets, ""

    def _write_and_read(self, packet: Packet, level: int) -> None:
        again, problem = self._read([encode(packet, level)], level, NO_LIMIT)
        if problem or again != [(packet, level)]:
            raise Violation(f"{packet!r:.300} became {again!r:.300} {problem}")


class StompCodec:
    """`FrameParser` and `encode_frame`, of every version, with narrow and wide limits."""

    name = "stomp-codec"

    def generate(self, rng: random.Random) -> Case:
        maker = stomp_frames.FrameMaker(rng)
        made = (maker.client_frame, maker.any_frame, maker.connect, maker.send)
        frames = [rng.choice(made)() for _ in range(rng.randint(1, 6))]
        share = rng.choice((0.0, 0.3, 1.0))
        frames = [stomp_frames.damage(rng, each, maker.send()) if rng.random() < share else each for each in frames]
        options = {
            "version": rng.randrange(len(VERSIONS)),
            "headers": rng.choice((2, 5, 200)),
            "header_line": rng.choice((20, 100, 10_240)),
            "header_section": rng.choice((60, 200, 65_536)),
            "body": rng.choice((4, 100, 1 << 20)),
        }
        return Case(target=self.name, options=options, steps=feeds(rng, frames))

    def run(self, case: Case) -> None:
        options = case.options
        version = VERSIONS[options["version"]]
        limits = FrameLimits(options["headers"], options["header_line"], options["header_section"], options["body"])
        with Deadline():
            # Ended, because what is wrong with an unfinished frame may be seen earlier in one of the ways.
            cut_up = self._read([*pieces(case), END], version, limits)
            whole = self._read([b"".join(pieces(case)) + END], version, limits)
        # Which of several things is wrong may depend on what has come, but not whether anything is.
        if _comparable(whole[0]) != _comparable(cut_up[0]) or bool(whole[1]) != bool(cut_up[1]):
            raise Violation(f"in pieces {cut_up!r:.300}, at once {whole!r:.300}")
        for frame in whole[0]:
            self._write_and_read(frame, version)

    def _read(self, data: Sequence[bytes], version: Version, limits: FrameLimits) -> tuple[list[Frame], str]:
        """The frames, and the error that came instead of the next."""
        parser = FrameParser(limits, version)
        frames = []
        for piece in data:
            parser.receive_data(piece)
            try:
                while (frame := parser.next_frame()) is not None:
                    frames.append(frame)
            except StompError as error:
                return frames, f"{error.title}: {error}"
        kept = footprint(parser, lambda each: isinstance(each, Version))
        most = max(map(len, data), default=0)
        if parser.buffered > limits.header_section + limits.body + most or kept > OBJECTS + 60 * sum(map(len, data)):
            raise Violation(f"{kept} bytes are kept of a stream of {sum(map(len, data))}")
        return frames, ""

    def _write_and_read(self, frame: Frame, version: Version) -> None:
        written_in = UNESCAPED if frame.command in CONNECT_COMMANDS else version
        headers = [(name, value) for name, value in frame.headers.items() if name != "content-length"]
        wire = encode_frame(frame.command, headers, written_in, frame.body)
        wide = FrameLimits(1000, NO_LIMIT, NO_LIMIT, NO_LIMIT)
        again, problem = self._read([wire], version, wide)
        if problem or _comparable(again) != _comparable([frame]):
            raise Violation(f"{frame!r} became {again!r} {problem}")


def _comparable(frames: Sequence[Frame]) -> list[tuple[str, dict[str, str], bytes]]:
    """Without the length, which the writer adds."""
    return [
        (frame.command, {name: value for name, value in frame.headers.items() if name != "content-length"}, frame.body)
        for frame in frames
    ]
