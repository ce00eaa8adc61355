"""Users files: what is read, what is written, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.auth.users import User, accounts, check_name, read_users, write_users
from gateway.core.errors import ConfigError, MqliftError
from tests.auth.hashes import quick_hash

Write = Callable[[str, str], Path]


def test_lines_of_both_forms(file: Write) -> None:
    one, other = quick_hash("one"), quick_hash("other")
    users = read_users(file("users", f"# people\n\nann:{one}\nbob smith:{other}:ops,devs\nçelik:{one}:\n"))
    assert list(users.values()) == [
        User(name="ann", stored=one),
        User(name="bob smith", stored=other, groups=("ops", "devs")),
        User(name="çelik", stored=one),
    ]
    assert accounts(users.values())["bob smith"].password.matches(b"other")
    assert one not in repr(users)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("ann", "has not one or two ':'"),
        ("ann:{hash}:a:b", "has not one or two ':'"),
        (":{hash}", "a name has 1 to 256 characters"),
        ("x" * 257 + ":{hash}", "a name has 1 to 256 characters"),
        (" ann:{hash}", "a space at an end"),
        ("a\x07n:{hash}", "an invisible character"),
        ("ann:secret", "is no password hash of a known form"),
        ("bob:{hash}", "user 'bob' is there already"),
    ],
)
def test_mistakes_name_the_line_and_no_hash(line: str, problem: str, file: Write) -> None:
    stored = quick_hash("x")
    path = file("users", f"bob:{stored}\n{line.replace('{hash}', stored)}\n")
    with pytest.raises(ConfigError) as caught:
        read_users(path)
    assert str(caught.value).startswith(f"{path}: line 2: ")
    assert problem in str(caught.value)
    assert stored not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["absent", "."])
def test_a_file_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_users(tmp_path / name)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "users").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        read_users(tmp_path / "users")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "users"
    users = {
        name: User(name=name, stored=quick_hash(name), groups=groups) for name, groups in [("a", ()), ("b", ("g",))]
    }
    write_users(path, users)
    assert read_users(path) == users
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    write_users(path, {"a": users["a"]})
    assert read_users(path) == {"a": users["a"]}
    assert path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in tmp_path.iterdir()] == ["users"]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(MqliftError, match="cannot be written"):
        write_users(tmp_path / "absent" / "users", {})


@pytest.mark.parametrize("name", ["", "a:b", "#a", " a", "a ", "a\n", "a\tb", "x" * 257])
def test_names_that_do_not_fit_in_a_line(name: str) -> None:
    with pytest.raises(ValueError, match=r"name|character"):
        check_name(name)
