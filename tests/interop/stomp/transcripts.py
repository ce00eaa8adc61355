"""What was observed of the real brokers, and how mqlift differs from it: files that are recorded, read and reviewed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.interop.stomp.activemq_scenarios import ACTIVEMQ
from tests.interop.stomp.rabbitmq_scenarios import RABBITMQ
from tests.interop.stomp.scenarios import COMMON, Scenario
from tests.interop.stomp.selector_scenarios import SELECTORS
from tests.interop.stomp.stage import Dialect

_FOLDER = Path(__file__).parent / "observed"
_HEADING = "## "
_REASON = "why: "
UNEXPLAINED = "?"
"""The reason of a difference that has been recorded, and that nobody has looked at."""

SCENARIOS: Final[Mapping[Dialect, Sequence[Scenario]]] = {
    "rabbitmq": (*COMMON, *RABBITMQ),
    "activemq": (*COMMON, *ACTIVEMQ, *SELECTORS),
}

_EVERYWHERE: Final[tuple[tuple[re.Pattern[str], str], ...]] = (
    # STOMP 1.2 ("ERROR") wants receipt-id, which RabbitMQ leaves out; it sends a version in every ERROR, ActiveMQ in
    # none. The length goes with the text.
    (re.compile(r"(?<=ERROR )(?:content-length:'\d+' )?(?:content-type:'text/plain' )?"), ""),
    (re.compile(r"(?<=ERROR )(message:(?:'[^']*'|\"[^\"]*\"))(?: receipt-id:'[^']*')?(?: version:'[^']*')?"), r"\1"),
    # RabbitMQ shows the sender's own receipt header to the receiver.
    (re.compile(r"(?<=MESSAGE )(.*?)receipt:'[^']*' "), r"\1"),
    # Each has its own way to make a name up.
    (re.compile(r"<id>"), "<generated>"),
)
"""What differs in so many scenarios that it is left out of all, and what is left of it."""

_OF_ACTIVEMQ: Final = (
    # Its errors are Java's exceptions; we say in both dialects what RabbitMQ says.
    (re.compile(r"(?<=ERROR) .*"), ""),
)


@dataclass(frozen=True, slots=True)
class Difference:
    """How mqlift's transcript of a scenario differs: lines that it lacks (-), and lines that it has instead (+)."""

    reason: str
    lines: tuple[str, ...]


def differing(dialect: Dialect, observed: Sequence[str], ours: Sequence[str]) -> tuple[str, ...]:
    """The lines that differ, up to the first ERROR of each connection.

    mqlift closes a connection after each ERROR, as STOMP wants it (1.2, "ERROR"); the brokers go on after most.
    """
    changes = difflib.unified_diff(comparable(dialect, observed), comparable(dialect, ours), n=0, lineterm="")
    return tuple(line for line in changes if not line.startswith(("---", "+++", "@@")))


def comparable(dialect: Dialect, lines: Iterable[str]) -> list[str]:
    """What is compared of a transcript."""
    compared = until_errors(lines)
    for pattern, left in _EVERYWHERE + (_OF_ACTIVEMQ if dialect == "activemq" else ()):
        compared = [pattern.sub(left, line) for line in compared]
    return compared


def until_errors(lines: Iterable[str]) -> list[str]:
    kept: list[str] = []
    failed: set[str] = set()
    for line in lines:
        connection, _, rest = line.partition(": ")
        if connection.startswith("#"):
            kept.append(line)
        elif connection not in failed:
            kept.append(line)
            if rest.startswith("ERROR"):
                failed.add(connection)
    return kept


def read_observed(dialect: Dialect) -> dict[str, list[str]]:
    """The transcripts of a real broker, by scenario."""
    return _read(f"{dialect}.txt")


def read_differences(dialect: Dialect) -> dict[str, Difference]:
    """What is known to differ, by scenario."""
    differences = {}
    for name, (reason, *lines) in _read(f"mqlift-{dialect}.txt").items():
        differences[name] = Difference(reason.removeprefix(_REASON), tuple(lines))
    return differences


def write_observed(dialect: Dialect, transcripts: Mapping[str, Sequence[str]]) -> None:
    _write(f"{dialect}.txt", transcripts)


def write_differences(dialect: Dialect, differences: Mapping[str, Difference]) -> None:
    sections = {name: [_REASON + each.reason, *each.lines] for name, each in differences.items()}
    _write(f"mqlift-{dialect}.txt", sections)


def _read(name: str) -> dict[str, list[str]]:
    sections: dict[str, list[str]] = {}
    section: list[str] = []
    for line in (_FOLDER / name).read_text().splitlines():
        if line.startswith(_HEADING):
            sections[line.removeprefix(_HEADING)] = section = []
        elif line:
            section.append(line)
    return sections


def _write(name: str, sections: Mapping[str, Sequence[str]]) -> None:
    _FOLDER.mkdir(exist_ok=True)
    texts = ("\n".join([_HEADING + heading, *lines]) for heading, lines in sections.items())
    (_FOLDER / name).write_text("\n\n".join(texts) + "\n")
