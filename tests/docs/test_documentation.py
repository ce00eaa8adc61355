"""What the documentation names is there: files, headings, commands, targets of make, names of code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from functools import cache
from pathlib import Path
from typing import TypeAlias

import pytest
import typer
import yaml
from typer.core import TyperCommand, TyperGroup

from config.mistakes import ConfigErrors
from config.settings import load
from gateway import cli
from gateway.assembly import assemble
from tests.rig.certificates import Authority

ROOT = Path(__file__).parents[2]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(page for folder in ("docs", "examples", "deploy") for page in (ROOT / folder).rglob("*.md")),
]
SOURCES = [source for package in ("gateway", "adapters", "config") for source in sorted((ROOT / package).rglob("*.py"))]

FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:^|\n\n)((?: {4}[^\n]*\n)+)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
INLINE = re.compile(r"`([^`\n]+)`")
ELSEWHERE = ("http://", "https://", "mailto:")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings; the second one of a name gets `-1`."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+)$", FENCE.sub("", page.read_text()), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).strip().replace(" ", "-")
        number = 0
        while (each := anchor if not number else f"{anchor}-{number}") in found:
            number += 1
        found.add(each)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if link.startswith(ELSEWHERE):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def code(page: Path) -> Iterator[str]:
    """Lines of a page's code blocks that are not configuration, and what it says in code within text."""
    text = page.read_text()
    for _, language, block in FENCE.findall(text):
        if language not in ("yaml", "json", "python"):
            yield from block.replace("\\\n", " ").splitlines()
    rest = FENCE.sub("", text)
    for block in INDENTED.findall(rest):
        yield from block.splitlines()
    yield from INLINE.findall(rest)


COMMAND = re.compile(r"(?:^|[$#|&] )(?:\S*bin/)?mqlift ([a-z-]+)(.*)")


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """Each `mqlift` command that a page shows, and the rest of its line."""
    for line in code(page):
        if found := COMMAND.search(line.strip()):
            yield found[1], found[2]


Command: TypeAlias = TyperCommand | TyperGroup


def known_commands() -> dict[str, Command]:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, TyperGroup)
    return {name: command for name, command in group.commands.items() if isinstance(command, Command)}


def options_of(command: Command, rest: str) -> set[str]:
    if isinstance(command, TyperGroup):
        [further] = [each for name, each in command.commands.items() if name in rest.split()]
        assert isinstance(further, Command)
        return options_of(further, rest)
    return {option for each in command.params for option in (*each.opts, *each.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_that_is_shown_can_be_given(page: Path) -> None:
    known = known_commands()
    for name, rest in commands(page):
        assert name in known, f"mqlift {name}{rest}"
        asked = {option.partition("=")[0] for option in re.findall(r"(?<=\s)--?[a-z][\w=-]*", rest.partition(" #")[0])}
        assert asked <= options_of(known[name], rest), f"mqlift {name}{rest}"


def test_every_command_is_shown_somewhere() -> None:
    shown = {name for page in PAGES for name, _ in commands(page)}
    assert known_commands().keys() <= shown


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_target_of_make_is_there(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in code(page):
        if found := re.match(r"(?:\$ )?make ([a-z]+)", line.strip()):
            assert found[1] in targets, line


# Configurations

LISTENER = "listeners: [{protocol: mqtt, port: 1883}]\n"


def configurations(page: Path) -> Iterator[str]:
    """The YAML blocks of a page that are a configuration, or part of one."""
    for _, language, block in FENCE.findall(page.read_text()):
        parsed = yaml.safe_load(block) if language == "yaml" else None
        if isinstance(parsed, dict) and not {"lifecycle", "apiVersion"} & parsed.keys():
            yield block


CONFIGURED = [page for page in PAGES if any(configurations(page))]


@pytest.mark.parametrize("page", CONFIGURED, ids=name_of)
def test_every_configuration_that_is_shown_is_right(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    for block in configurations(page):
        file = tmp_path / "mqlift.yaml"
        text = block.replace("/etc/mqlift", str(tmp_path)).replace("/etc/mosquitto", str(tmp_path))
        file.write_text(text if "listeners" in yaml.safe_load(block) else LISTENER + text)
        settings = load(file)
        assert assemble(settings).settings is settings


def test_mistakes_are_told_as_the_documentation_shows_them(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(
        """
listeners: [{protocol: mqtt, port: 1883, max_paket_size: 1}]
routes:
  - match: {queue: a}
    to: [{sqs: a}]
  - match: {queue: b}
    to: [{sqs: b}]
  - match: {topic: "{region}"}
    to: [{sqs: "x{regoin}"}]
"""
    )
    with pytest.raises(ConfigErrors) as caught:
        assemble(load(file))
    shown = re.findall(r"^ {4}(gateway\.yaml: .+)$", (ROOT / "docs" / "configuration.md").read_text(), re.MULTILINE)
    assert str(caught.value).replace(f"{tmp_path}/", "").splitlines() == shown


def put_files(directory: Path) -> None:
    """Where examples name files, relative or in /etc/mqlift and /etc/mosquitto."""
    authority = Authority(directory)
    for path, name in zip(
        (*authority.issue("localhost"), authority.path), ("server.pem", "server.key", "clients.pem"), strict=True
    ):
        path.rename(directory / name)
    for name in ("users", "passwd"):
        (directory / name).write_text("")
    (directory / "definitions.json").write_text("{}")


# Names of code

PATH = re.compile(r"(?:[a-z0-9_]+/)*[a-z0-9_]+\.py\b")
MEMBER = re.compile(r"([A-Z]\w+)\.([a-z_]\w*)(?:\(.*\))?")


@cache
def members() -> Mapping[str, AbstractSet[str]]:
    """Methods and attributes of each class."""
    found: dict[str, set[str]] = {}
    for source in SOURCES:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ClassDef):
                found.setdefault(node.name, set()).update(_members(node))
    return found


def _members(node: ast.ClassDef) -> Iterator[str]:
    for each in ast.walk(node):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            yield each.name
        elif isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name):
            yield each.target.id
        elif isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id == "self":
            yield each.attr


@pytest.mark.parametrize(
    "page", [ROOT / "docs" / "architecture.md", *sorted((ROOT / "docs" / "adr").glob("*.md"))], ids=name_of
)
def test_the_modules_and_functions_of_the_architecture_are_there(page: Path) -> None:
    known = members()
    files = {str(source.relative_to(ROOT)) for source in SOURCES}
    for text in INLINE.findall(FENCE.sub("", page.read_text())):
        path, _, name = text.partition(": ")
        if PATH.fullmatch(path):
            [file] = [file for file in files if file in (path, f"gateway/{path}")] or [""]
            assert file, text
            words = name.partition(".")[0]
            assert not name or re.search(
                rf"^(class|def|async def) {words}\b|^{words}\b", Path(ROOT / file).read_text(), re.MULTILINE
            ), text
        if (found := MEMBER.fullmatch(name or text)) and found[1] in known:
            assert found[2] in known[found[1]], text


def test_decisions_are_numbered_without_gaps_and_listed() -> None:
    folder = ROOT / "docs" / "adr"
    pages = sorted(page for page in folder.glob("*.md") if page.name != "README.md")
    assert [page.name[:4] for page in pages] == [f"{number:04}" for number in range(1, len(pages) + 1)]
    listed = re.findall(r"^\| \[(\d+)\]\(([^)]+)\) \| (.+) \|$", (folder / "README.md").read_text(), re.MULTILINE)
    titles = [page.read_text().partition("\n")[0] for page in pages]
    assert titles == [f"# {number}. {title}" for number, _, title in listed]
    assert [page.name for page in pages] == [file for _, file, _ in listed]
