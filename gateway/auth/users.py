"""Users files: `name:hash` or `name:hash:group,group` a line, so that a password file of Mosquitto is one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from gateway.auth.passwords import StoredPassword, parse_stored
from gateway.core.errors import ConfigError, MqliftError

MAX_FILE_BYTES: Final = 64 * 1024 * 1024
"""Some hundred thousand users."""

MAX_NAME_LENGTH: Final = 256
"""Characters of the name of a user or a group."""

_MODE: Final = 0o600
"""Of a new file: hashes can be guessed at by whoever can read them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """One user. `stored` is the text that `passwords.parse_stored` takes; it never shows in `repr`."""

    name: str
    stored: str = field(repr=False)
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Account:
    """A user that is ready to be checked."""

    password: StoredPassword
    groups: tuple[str, ...]


def accounts(users: Iterable[User]) -> dict[str, Account]:
    """By name; of two with one name, the first. Raises `ConfigError`, keyed by the user, for a hash of unknown form."""
    found: dict[str, Account] = {}
    for user in users:
        try:
            password = parse_stored(user.stored)
        except ValueError as error:
            raise ConfigError(f"user {user.name!r}", str(error), "set the password again with mqlift passwd") from None
        found.setdefault(user.name, Account(password, user.groups))
    return found


def check_name(name: str) -> str:
    """Raises `ValueError` for what cannot be the name of a user in a file."""
    if not name or len(name) > MAX_NAME_LENGTH:
        raise ValueError(f"a name has 1 to {MAX_NAME_LENGTH} characters")
    if ":" in name or "#" in name[:1] or name != name.strip() or not name.isprintable():
        raise ValueError(f"{name!r} has ':', an invisible character, a space at an end, or begins with '#'")
    return name


def check_group(group: str) -> str:
    """Raises `ValueError` for what cannot be a group in a file."""
    if "," in check_name(group):
        raise ValueError(f"{group!r} has ','")
    return group


def read_users(path: Path) -> dict[str, User]:
    """By name. Raises `ConfigError`, keyed by the file and line, with nothing of a hash in it."""
    users: dict[str, User] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        key = f"{path}: line {number}"
        try:
            user = _parse(line)
            parse_stored(user.stored)
        except ValueError as error:
            raise ConfigError(key, str(error), "name:hash or name:hash:group,group, as mqlift passwd writes") from None
        if user.name in users:
            raise ConfigError(key, f"user {user.name!r} is there already", "remove one of the two lines")
        users[user.name] = user
    return users


def write_users(path: Path, users: Mapping[str, User]) -> None:
    """Replace the file at one instant; its mode stays. Raises `MqliftError` when it cannot be written."""
    text = "".join(f"{_line(user)}\n" for user in users.values())
    try:
        mode = path.stat().st_mode & 0o777 if path.exists() else _MODE
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise
    except OSError as error:
        raise MqliftError(f"{path}: cannot be written: {error.strerror}") from error


def read_text(path: Path, limit: int, remedy: str) -> str:
    """A file of access control. Raises `ConfigError` keyed by its path."""
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}", remedy) from error
    if len(content) > limit:
        raise ConfigError(str(path), f"is larger than {limit} bytes", remedy)
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), "is not UTF-8 text", remedy) from error


def _lines(path: Path) -> list[str]:
    return read_text(path, MAX_FILE_BYTES, "a file that mqlift passwd or mosquitto_passwd has written").splitlines()


def _parse(line: str) -> User:
    name, *rest = line.rstrip().split(":")
    if len(rest) not in (1, 2):
        raise ValueError("has not one or two ':'")
    groups = tuple(map(check_group, filter(None, rest[1].split(",")))) if len(rest) > 1 else ()
    return User(name=check_name(name), stored=rest[0], groups=groups)


def _line(user: User) -> str:
    return ":".join([user.name, user.stored, *([",".join(user.groups)] if user.groups else [])])
