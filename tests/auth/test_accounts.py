"""`mqlift passwd` and `mqlift auth import`, as an operator runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gateway.auth.users import accounts, read_users
from tests.auth.test_imports import DEFINITIONS, HASH
from tests.rig.processes import clean_environment

RUN = [sys.executable, "-c", "from gateway.cli import main; main()"]


def mqlift(*arguments: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    environment = clean_environment({}) | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [*RUN, *map(str, arguments)],
        input=given,
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=60,
    )


def knows(file: Path, user: str, password: str) -> bool:
    return accounts(read_users(file).values())[user].password.matches(password.encode())


def test_a_user_is_added_changed_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "users"
    added = mqlift("passwd", file, "ann", "--stdin", "-g", "ops", "-g", "hall", given="correct horse\n")
    assert (added.returncode, added.stdout, added.stderr) == (0, "", "ann: added\n")
    assert knows(file, "ann", "correct horse")
    assert read_users(file)["ann"].groups == ("ops", "hall")
    assert file.stat().st_mode & 0o777 == 0o600
    assert "correct" not in file.read_text()
    changed = mqlift("passwd", file, "ann", "--stdin", given="battery staple\n")
    assert changed.stderr == "ann: changed\n"
    assert knows(file, "ann", "battery staple")
    assert not knows(file, "ann", "correct horse")
    assert read_users(file)["ann"].groups == ("ops", "hall")
    assert mqlift("passwd", file, "ann", "--delete").stderr == "ann: removed\n"
    assert read_users(file) == {}


@pytest.mark.parametrize(
    ("arguments", "given", "code", "line"),
    [
        (["ann"], "", 1, "mqlift: no terminal to ask for a password; use --stdin"),
        (["ann", "--stdin"], "", 1, "mqlift: a password has 1 to 1024 bytes"),
        (["ann", "--stdin"], "x" * 2_000, 1, "mqlift: a password has 1 to 1024 bytes"),
        (["ann", "--delete"], "", 1, "there is no user 'ann'"),
        (["a:b", "--stdin"], "x\n", 2, "'a:b' has ':'"),
        (["ann", "--stdin", "-g", "a,b"], "x\n", 2, "'a,b' has ','"),
    ],
)
def test_what_cannot_be_done(arguments: list[str], given: str, code: int, line: str, tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("")
    done = mqlift("passwd", file, *arguments, given=given)
    assert done.returncode == code
    assert line in done.stderr
    assert "Traceback" not in done.stderr
    assert file.read_text() == ""


def test_a_file_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "users"
    file.write_text("ann:plain-text\n")
    done = mqlift("passwd", file, "bob", "--stdin", given="x\n")
    assert done.returncode == 2
    assert done.stderr.startswith(f"{file}: line 1: is no password hash of a known form")
    assert "plain-text" not in done.stderr
    assert file.read_text() == "ann:plain-text\n"


def test_users_of_other_brokers(tmp_path: Path) -> None:
    file, definitions, passwords = tmp_path / "users", tmp_path / "definitions.json", tmp_path / "passwd"
    definitions.write_text(json.dumps(DEFINITIONS))
    passwords.write_text(f"dev:$rabbitmq-sha256${HASH}\nann:$rabbitmq-sha256${HASH}\n")
    done = mqlift("auth", "import", file, "--rabbitmq", definitions, "--mosquitto", passwords)
    assert done.returncode == 0, done.stderr
    assert list(read_users(file)) == ["ann", "old", "dev"]
    assert knows(file, "ann", "test12")
    assert done.stderr.splitlines() == [
        f"{file}: 2 users added",
        "ann: is there already, and stays as it is",
        f"{file}: 1 user added",
    ]
    printed = yaml.safe_load(done.stdout)["auth"]
    assert printed["permissions"][0] == {
        "user": "ann",
        "configure": "^ann-.*",
        "write": ".*",
        "read": "^(ann-.*|shared)$",
    }
    assert [each["user"] for each in printed["permissions"]] == ["ann", "old", "x509"]
    assert printed["topic_permissions"][0]["write"] == "^{username}\\."


def test_an_import_of_nothing(tmp_path: Path) -> None:
    done = mqlift("auth", "import", tmp_path / "users")
    assert (done.returncode, "give --rabbitmq or --mosquitto" in done.stderr) == (2, True)
    done = mqlift("auth", "import", tmp_path / "users", "--rabbitmq", tmp_path / "absent")
    assert done.returncode == 2
    assert "cannot be read: No such file or directory" in done.stderr
