"""`docs/mqtt-conformance.md` against what there is: each test that it names, each statement that is cited anywhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
TABLE = ROOT / "docs" / "mqtt-conformance.md"
ROW = re.compile(r"^\| \[MQTT-([\d.]+-\d+)\] \| (?P<summary>[^|]+) \| (?P<test>[^|]+) \|$")
NAMED = re.compile(r"`(test_\w+\.py)::(\w+)`")
CITED = re.compile(r"\[MQTT-([\d.]+-\d+)\]")
DEFINED = re.compile(r"^\s*(?:async )?(?:def |)((?:test_|Test)\w+)(?:\(| =)", re.MULTILINE)
STATEMENTS = {"MQTT 3.1.1": 133, "MQTT 5.0": 246}
"""How many each version has, but for transports and conformance as a whole: a row cannot get lost."""


def sections() -> dict[str, list[re.Match[str]]]:
    found: dict[str, list[re.Match[str]]] = {}
    heading = ""
    for line in TABLE.read_text().splitlines():
        if line.startswith("## "):
            heading = line.removeprefix("## ")
        elif (row := ROW.match(line)) is not None:
            found.setdefault(heading, []).append(row)
    return found


def test_every_test_that_is_named_exists() -> None:
    defined: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        defined.setdefault(path.name, set()).update(DEFINED.findall(path.read_text()))
    missing = [
        f"{file}::{name}" for file, name in NAMED.findall(TABLE.read_text()) if name not in defined.get(file, set())
    ]
    assert missing == []


@pytest.mark.parametrize("version", STATEMENTS)
def test_every_statement_has_one_row_with_a_test_or_a_reason(version: str) -> None:
    rows = sections()[version]
    numbers = [row.group(1) for row in rows]
    assert len(numbers) == len(set(numbers)) == STATEMENTS[version]
    for row in rows:
        named = NAMED.findall(row["test"])
        reason = row["test"].startswith(("binds clients only", "not applicable: ", "not kept: see"))
        assert bool(named) is not reason, row.group()


def test_every_statement_that_is_cited_is_listed() -> None:
    listed = {row.group(1) for rows in sections().values() for row in rows}
    cited: dict[str, str] = {}
    folders = [ROOT / "gateway", *(ROOT / "tests" / name for name in ("codecs/mqtt", "sessions/mqtt", "e2e", "net"))]
    for folder in folders:
        for path in folder.rglob("*.py"):
            cited |= dict.fromkeys(CITED.findall(path.read_text()), path.name)
    assert {number: file for number, file in cited.items() if number not in listed} == {}
