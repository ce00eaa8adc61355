"""Commands about users: `mqlift passwd`, and `mqlift auth import`."""

from __future__ import annotations

import getpass
import sys
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from gateway.core.errors import ConfigError, MqliftError

if TYPE_CHECKING:
    from gateway.auth.users import User

OneLineErrors: TypeAlias = Callable[[], AbstractContextManager[None]]
"""Tells what a user can mend in one line, and leaves."""

_UsersFile = Annotated[Path, typer.Argument(metavar="FILE", help="The users file; it is made when it is not there.")]


def add_commands(app: typer.Typer, one_line_errors: OneLineErrors) -> None:
    """Add them to a command line."""

    @app.command()
    def passwd(
        file: _UsersFile,
        user: Annotated[str, typer.Argument(help="The user's name.")],
        group: Annotated[
            list[str] | None, typer.Option("--group", "-g", help="Its groups from now on. May be repeated.")
        ] = None,
        delete: Annotated[bool, typer.Option("--delete", "-D", help="Remove the user.")] = False,
        stdin: Annotated[bool, typer.Option("--stdin", help="Read the password from standard input, a line.")] = False,
    ) -> None:
        """Set the password of a user, add the user, or remove it."""
        with one_line_errors():
            if delete:
                _delete(file, user)
            else:
                _set(file, user, group, _line_of_stdin if stdin else _asked_for)

    auth = typer.Typer(help="Access control.", no_args_is_help=True)
    app.add_typer(auth, name="auth")

    @auth.command("import")
    def import_users(
        file: _UsersFile,
        rabbitmq: Annotated[
            Path | None, typer.Option(metavar="DEFINITIONS", help="From rabbitmqctl export_definitions.")
        ] = None,
        mosquitto: Annotated[Path | None, typer.Option(metavar="PASSWD", help="Mosquitto's password_file.")] = None,
        vhost: Annotated[str, typer.Option(help="The virtual host whose permissions are printed.")] = "/",
    ) -> None:
        """Add the users of a broker to a users file, passwords as they are. Those that are there stay.

        Permissions of RabbitMQ are printed, to be put into the configuration.
        """
        with one_line_errors():
            if rabbitmq is None and mosquitto is None:
                raise typer.BadParameter("give --rabbitmq or --mosquitto")
            if rabbitmq is not None:
                _import_rabbitmq(file, rabbitmq, vhost)
            if mosquitto is not None:
                from gateway.auth.users import read_users

                _add(file, read_users(mosquitto).values())


def _set(file: Path, user: str, groups: list[str] | None, ask: Callable[[str], str]) -> None:
    from gateway.auth.passwords import MAX_PASSWORD_BYTES, hash_password
    from gateway.auth.users import User, check_group, check_name, write_users

    users = _users(file)
    known = users.get(user)
    try:
        check_name(user)
        kept = tuple(map(check_group, groups)) if groups is not None else known.groups if known is not None else ()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    password = ask(user).encode()
    if not password or len(password) > MAX_PASSWORD_BYTES:
        raise MqliftError(f"a password has 1 to {MAX_PASSWORD_BYTES} bytes")
    users[user] = User(name=user, stored=hash_password(password), groups=kept)
    write_users(file, users)
    typer.echo(f"{user}: {'added' if known is None else 'changed'}", err=True)


def _delete(file: Path, user: str) -> None:
    from gateway.auth.users import read_users, write_users

    users = read_users(file)
    if users.pop(user, None) is None:
        raise MqliftError(f"{file}: there is no user {user!r}")
    write_users(file, users)
    typer.echo(f"{user}: removed", err=True)


def _asked_for(user: str) -> str:
    """Twice, from the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            password = getpass.getpass(f"New password of {user}: ")
            again = getpass.getpass("The same again: ")
        except (getpass.GetPassWarning, EOFError) as error:
            raise MqliftError("no terminal to ask for a password; use --stdin") from error
    if password != again:
        raise MqliftError("these are two different passwords; nothing was changed")
    return password


def _line_of_stdin(_user: str) -> str:
    try:
        return sys.stdin.readline().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise MqliftError("the password is not UTF-8 text") from None


def _users(file: Path) -> dict[str, User]:
    from gateway.auth.users import read_users

    return read_users(file) if file.exists() else {}


def _import_rabbitmq(file: Path, definitions_file: Path, vhost: str) -> None:
    import yaml

    from gateway.auth.rabbitmq import read_definitions

    definitions = read_definitions(definitions_file, vhost)
    definitions.permissions()  # what is no regular expression is told now, and not by the gateway
    _add(file, definitions.users.values())
    auth = {
        "permissions": [
            {"user": triple.user, "configure": triple.configure, "write": triple.write, "read": triple.read}
            for triple in definitions.all_triples()
        ],
        "topic_permissions": [
            {"user": topic.user, "exchange": topic.exchange, "write": topic.write, "read": topic.read}
            for topic in definitions.topics
        ],
    }
    typer.echo(yaml.safe_dump({"auth": auth}, sort_keys=False, allow_unicode=True), nl=False)


def _add(file: Path, new: Iterable[User]) -> None:
    """Add users to a file; those of the same name stay as they are. One that cannot be written is told."""
    from gateway.auth.users import accounts, check_group, check_name, write_users

    users = _users(file)
    added = 0
    for user in new:
        try:
            check_name(user.name)
            for group in user.groups:
                check_group(group)
        except ValueError as error:
            raise ConfigError(
                f"user {user.name!r}", str(error), "a users file cannot hold it; rename it first"
            ) from None
        if user.name in users:
            typer.echo(f"{user.name}: is there already, and stays as it is", err=True)
        else:
            users[user.name] = user
            added += 1
    accounts(users.values())
    write_users(file, users)
    typer.echo(f"{file}: {added} user{'' if added == 1 else 's'} added", err=True)
