"""A short slice of what `make fuzz` does, and proof that the fuzzer sees what it looks for."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.core.commands import Close, Command, Publish
from gateway.core.message import Address, Message
from gateway.core.outcome import Result
from gateway.protocols.mqtt.codec import Decoder, encode
from gateway.protocols.mqtt.packets import Connect, Pingreq, Puback
from gateway.protocols.mqtt.packets import Publish as PublishPacket
from gateway.protocols.mqtt.session import MqttSession
from gateway.protocols.mqtt.settings import Settings
from gateway.protocols.stomp.codec import FrameParser
from gateway.protocols.stomp.session import StompSession
from tests.fuzz import __main__ as command
from tests.fuzz.__main__ import main
from tests.fuzz.cases import Case, Step, Target, Violation
from tests.fuzz.footprint import footprint
from tests.fuzz.minimise import failure
from tests.fuzz.mutations import MAX_BYTES, MUTATORS, mutate
from tests.fuzz.runner import Finding, fuzz, make
from tests.fuzz.targets import TARGETS

SEED = 20_260_101
CASES = 400
MEMORY_CASES = 30
"""In each of three passes; they are traced, which takes ten times as long."""
GROWTH_BYTES = 512 * 1024
"""Between two passes over the same cases: entries of caches differ in size."""

CONNECT = encode(Connect(client_id="c"), 4)
PUBLISH = encode(PublishPacket("a/b", b"hi", 1, 7), 4)


def find(target: Target, cases: int = 3000) -> Finding:
    finding = fuzz([target], SEED, running=lambda done: done < cases, minimise_seconds=3.0)
    assert finding is not None
    return finding


def mqtt_case(*steps: Step) -> Case:
    return Case(target="mqtt-session", options={"narrow": 0}, steps=steps)


def run_mqtt(*steps: Step) -> None:
    TARGETS["mqtt-session"].run(mqtt_case(*steps))


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
class TestSlice:
    def test_nothing_is_found(self, target: Target) -> None:
        finding = fuzz([target], SEED, running=lambda done: done < CASES)
        assert finding is None, finding

    def test_cases_are_the_same_for_the_same_seed(self, target: Target) -> None:
        assert [make(target, str(seed)) for seed in range(20)] == [make(target, str(seed)) for seed in range(20)]
        assert make(target, "1") != make(target, "2")

    def test_cases_can_be_written_down(self, target: Target) -> None:
        case = make(target, "written")
        assert Case.loads(case.dumps()) == case

    def test_memory_does_not_grow(self, target: Target) -> None:
        def run() -> None:
            for seed in range(MEMORY_CASES):
                assert failure(target, make(target, f"memory/{seed}")) is None
            gc.collect()

        run()
        tracemalloc.start()
        try:
            run()
            before, _ = tracemalloc.get_traced_memory()
            run()
            after, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert after - before < GROWTH_BYTES


class TestMutations:
    @pytest.mark.parametrize("mutator", MUTATORS)
    def test_each_does_something_and_bears_anything(
        self, mutator: Callable[[random.Random, bytearray, bytes], None]
    ) -> None:
        rng = random.Random(SEED)
        damaged = 0
        for size in (1, 2, 3, 50, 300):
            for _ in range(20):
                before = rng.randbytes(size - 1) + b"7"
                after = bytearray(before)
                mutator(rng, after, rng.choice((b"", b"spare")))
                damaged += bytes(after) != before
        assert damaged > 20

    def test_growth_is_bounded(self) -> None:
        rng = random.Random(SEED)
        data = b"x" * 1000
        for _ in range(300):
            data = mutate(rng, data, data) or b"x"
            assert len(data) <= MAX_BYTES


class TestFindings:
    """Mistakes that are made on purpose are found."""

    def test_an_undocumented_error_of_a_codec(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = Decoder.next_packet

        def next_packet(decoder: Decoder) -> object:
            packet = original(decoder)
            if isinstance(packet, Pingreq):
                raise IndexError("planted")
            return packet

        monkeypatch.setattr(Decoder, "next_packet", next_packet)
        finding = find(TARGETS["mqtt-codec"])
        assert isinstance(finding.error, IndexError)
        assert finding.case.size() < 50, "a CONNECT and a PINGREQ are shorter than that"
        assert finding.case.size() <= finding.original_size

    def test_a_parser_that_depends_on_the_pieces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = FrameParser.receive_data

        def receive_data(parser: FrameParser, data: bytes) -> None:
            original(parser, data.removesuffix(b"\r"))

        monkeypatch.setattr(FrameParser, "receive_data", receive_data)
        assert isinstance(find(TARGETS["stomp-codec"]).error, Violation)

    def test_a_parser_that_keeps_everything(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = Decoder.feed
        kept = []

        def feed(decoder: Decoder, data: bytes) -> None:
            kept.append(data * 1000)
            original(decoder, data)
            if decoder._rest is not None:
                decoder._rest.extend(b"".join(kept))

        monkeypatch.setattr(Decoder, "feed", feed)
        assert isinstance(find(TARGETS["mqtt-codec"]).error, Violation)

    def test_an_exception_of_a_session(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def subscribe(session: StompSession, frame: object) -> None:
            raise KeyError("planted")

        handlers = {**StompSession._ESTABLISHED, "UNSUBSCRIBE": subscribe}
        monkeypatch.setattr(StompSession, "_ESTABLISHED", handlers)
        finding = find(TARGETS["stomp-session"])
        assert isinstance(finding.error, KeyError)
        assert b"UNSUBSCRIBE" in b"".join(value for _, value in finding.case.steps if isinstance(value, bytes))

    def test_a_session_that_closes_twice(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = StompSession.receive_data

        def receive_data(session: StompSession, data: bytes, now: float) -> list[Command]:
            commands = list(original(session, data, now))
            return commands + [command for command in commands if isinstance(command, Close)]

        monkeypatch.setattr(StompSession, "receive_data", receive_data)
        with pytest.raises(Violation, match="closed twice"):
            raise find(TARGETS["stomp-session"]).error

    def test_a_session_that_does_not_say_what_it_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = StompSession.deliver

        def deliver(session: StompSession, tag: str, delivery: object) -> bool:
            return not original(session, tag, delivery)  # type: ignore[arg-type]

        monkeypatch.setattr(StompSession, "deliver", deliver)
        with pytest.raises(Violation, match=r"unsettled|does not hold"):
            raise find(TARGETS["stomp-session"]).error


def spoil(monkeypatch: pytest.MonkeyPatch, **methods: object) -> None:
    for name, method in methods.items():
        monkeypatch.setattr(MqttSession, name, method)


class TestAccounts:
    """The hub and the client of a session notice each breach of its contract."""

    def test_an_honest_session(self) -> None:
        run_mqtt(("feed", CONNECT), ("settle down", 0), ("feed", PUBLISH), ("answer", 0))

    def test_an_acknowledgement_before_the_hub_has_accepted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = MqttSession.receive_data

        def receive_data(session: MqttSession, data: bytes, now: float) -> object:
            commands = original(session, data, now)
            session._out += [encode(Puback(command.token), 4) for command in commands if isinstance(command, Publish)]  # type: ignore[arg-type]
            return commands

        spoil(monkeypatch, receive_data=receive_data)
        with pytest.raises(Violation, match="1 acknowledged of 0 accepted"):
            run_mqtt(("feed", CONNECT), ("settle down", 0), ("feed", PUBLISH))

    def test_an_acknowledgement_that_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = MqttSession.answer

        def answer(session: MqttSession, token: object, result: Result, now: float) -> object:
            return () if isinstance(token, int) else original(session, token, result, now)

        spoil(monkeypatch, answer=answer)
        with pytest.raises(Violation, match="not answered"):
            run_mqtt(("feed", CONNECT), ("settle down", 0), ("feed", PUBLISH))

    def test_an_answer_that_is_too_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spoil(monkeypatch, data_to_send=lambda _: bytes(100_000))
        with pytest.raises(Violation, match="100000 bytes out"):
            run_mqtt(("feed", CONNECT))

    def test_a_session_that_collects(self, monkeypatch: pytest.MonkeyPatch) -> None:
        original = MqttSession.receive_data

        def receive_data(session: MqttSession, data: bytes, now: float) -> object:
            commands = original(session, data, now)
            session._pipelined = bytearray(9_000_000)
            return commands

        spoil(monkeypatch, receive_data=receive_data)
        with pytest.raises(Violation, match="the session keeps"):
            run_mqtt(("feed", CONNECT), ("lose", 0))

    def test_a_deadline_that_has_passed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spoil(monkeypatch, tick=lambda *_: ())
        connect = encode(Connect(client_id="c", keep_alive=1), 4)
        with pytest.raises(Violation, match="it would spin"):
            run_mqtt(("feed", connect), ("settle down", 0), ("time", 800))

    def test_a_session_that_survives_what_it_cannot_read(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spoil(monkeypatch, _fail=lambda *_: ())
        with pytest.raises(Violation, match="lives on"):
            run_mqtt(("feed", CONNECT), ("settle down", 0), ("feed", b"\0\0"))

    def test_last_words_that_wait_for_an_answer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        spoil(monkeypatch, connection_lost=lambda _: [Publish(Message(Address("", "q"), b""), 1)])
        with pytest.raises(Violation, match="connection that is lost"):
            run_mqtt(("feed", CONNECT))


@dataclass
class Brittle:
    """A target that fails when `needle` is in its input."""

    needle: bytes
    name = "brittle"

    def generate(self, rng: random.Random) -> Case:
        steps = tuple(("feed", rng.randbytes(50)) for _ in range(20))
        return Case(
            target=self.name, options={}, steps=(*steps[:9], ("feed", b"..." + self.needle + b"..."), *steps[9:])
        )

    def run(self, case: Case) -> None:
        if self.needle in b"".join(value for _, value in case.steps if isinstance(value, bytes)):
            raise Violation("there it is")


class TestMinimising:
    def test_nothing_is_left_but_the_reason(self) -> None:
        finding = find(Brittle(b"needle"))
        assert finding.original_size == 20 * 51 + 13
        assert finding.case.steps == (("feed", b"needle"),)
        assert str(finding.error) == "there it is"
        assert finding.seed == f"{SEED}/brittle/0"

    def test_another_failure_is_not_taken_for_the_first(self) -> None:
        class Treacherous(Brittle):
            def run(self, case: Case) -> None:
                if case.size() < 500:
                    raise ZeroDivisionError
                super().run(case)

        finding = find(Treacherous(b"needle"))
        assert isinstance(finding.error, Violation)
        assert 500 <= finding.case.size() < finding.original_size


class TestFootprint:
    def test_everything_below_counts_once(self) -> None:
        shared = bytearray(10_000)
        assert 10_000 < footprint([shared, {"again": shared}]) < 11_000

    def test_what_is_not_ones_own_does_not_count(self) -> None:
        assert footprint([bytearray(10_000)], lambda each: isinstance(each, bytearray)) < 200
        assert footprint([random, Case, print, Settings()]) < 500


class TestCommand:
    def test_it_runs_for_a_time(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--seconds", "0", "--seed", "1", "--only", "stomp-codec"]) == 0
        said = capsys.readouterr().err
        assert "0 s of stomp-codec; seed 1" in said
        assert f"{len(TARGETS)} cases" in said

    def test_what_fails_is_written_down_and_can_be_run_again(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr(command, "TARGETS", {"brittle": Brittle(b"needle")})
        assert main(["--seconds", "5", "--seed", "3", "--failures", str(tmp_path)]) == 1
        path = tmp_path / "3-brittle-0.json"
        assert f"--replay {path}" in capsys.readouterr().err
        assert Case.loads(path.read_text()).steps == (("feed", b"needle"),)
        with pytest.raises(Violation, match="there it is"):
            main(["--replay", str(path)])

    def test_a_case_in_which_nothing_is_wrong(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "case.json"
        path.write_text(mqtt_case(("feed", CONNECT), ("settle down", 0)).dumps())
        assert main(["--replay", str(path)]) == 0
        assert "nothing is wrong" in capsys.readouterr().err

    @pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"target": 1, "options": {}, "steps": 7}'])
    def test_what_is_no_case(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"not a case|Expecting"):
            Case.loads(text)

    def test_growth_of_the_process_is_a_failure(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        sizes = iter((100, 200, 200 + command.GROWTH_BYTES, 201 + command.GROWTH_BYTES))
        monkeypatch.setattr(command, "resident_bytes", lambda _pid: next(sizes))
        watch = command.Watch(1.0)
        watch.progress(command.WARM_CASES - 1)
        watch.progress(command.WARM_CASES)
        watch.progress(command.WARM_CASES)
        with pytest.raises(Violation, match="grown from 200"):
            watch.progress(command.WARM_CASES)
