"""The command line. Each command imports what it needs when it runs, so that `--help` is instant."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Final, TextIO, TypeVar

import typer

from gateway import accounts, iam_command, operator_commands
from gateway.core.errors import ConfigError, MqliftError

if TYPE_CHECKING:
    from gateway.clients.port import Incoming, Place, Server

EXIT_FAILURE: Final = 1
EXIT_MISTAKE: Final = 2
"""A mistake in the configuration or on the command line."""
EXIT_INTERRUPTED: Final = 130
"""128 + SIGINT, the shell's convention."""

PASSWORD_VARIABLE: Final = "MQLIFT_PASSWORD"  # noqa: S105 -- its name
TRACEBACK_VARIABLE: Final = "MQLIFT_TRACEBACK"

_T = TypeVar("_T")

app = typer.Typer(
    name="mqlift",
    help="A message broker to MQTT, AMQP and STOMP applications, whose queues and topics live in AWS.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_Config = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration, in YAML.")]
_PlaceText = Annotated[str, typer.Argument(metavar="PLACE", help="topic:NAME (MQTT) or queue:NAME (STOMP).")]
_Host = Annotated[str, typer.Option("--host", "-h", help="Where the gateway listens.")]
_Port = Annotated[
    int | None, typer.Option("--port", "-p", min=1, max=65535, help="Default: 1883 for topics, 61613 for queues.")
]
_User = Annotated[
    str | None,
    typer.Option("--user", "-u", help=f"User name. The password is taken from {PASSWORD_VARIABLE}, or asked for."),
]


def main() -> None:
    """The entry point of `mqlift`."""
    sys.excepthook = _tell_bug
    typer.main.get_command(app)()


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mqlift {metadata.version('mqlift')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Options of `mqlift` itself."""


@app.command()
def serve(config: _Config) -> None:
    """Run the gateway until SIGTERM or SIGINT, which drain it."""
    with _one_line_errors():
        from config.settings import load
        from gateway import app as gateway_app
        from gateway import logs

        settings = load(config)
        logs.configure_by(settings.log)
        if settings.workers == 1:
            code = _run(gateway_app.serve(settings, config=config))
        else:
            from gateway import workers

            code = _run(workers.serve(settings, config))
    raise typer.Exit(code)


def serve_worker(config: Path, number: int, socket: Path) -> None:
    """Run one of several workers, which answers at `socket`; ends the process as `serve` does."""
    sys.excepthook = _tell_bug
    try:
        with _one_line_errors():
            from config.settings import load
            from gateway import app as gateway_app
            from gateway import logs

            settings = load(config)
            logs.configure_by(settings.log)
            code = _run(
                gateway_app.serve(settings, config=config, place=gateway_app.Place(number=number, socket=socket))
            )
    except typer.Exit as end:
        code = end.exit_code
    sys.exit(code)


@app.command()
def check(
    config: _Config,
    explain: Annotated[
        list[str] | None,
        typer.Option(metavar="PLACE", help="Show where queue:NAME, topic:A/B or exchange:NAME/KEY goes. Repeatable."),
    ] = None,
    aws: Annotated[bool, typer.Option("--aws", help="Try the credentials, and each resource that is named.")] = False,
) -> None:
    """Check a configuration: one line for each mistake, and exit code 2."""
    with _one_line_errors():
        from gateway.check import check as check_config

        code = check_config(config, explain or [], aws)
    raise typer.Exit(code)


@app.command()
def demo(
    port_offset: Annotated[int, typer.Option(metavar="N", min=0, help="Added to every port.")] = 0,
) -> None:
    """Start an AWS emulator and a gateway on this machine, to try things out. Ctrl-C stops both."""
    with _one_line_errors():
        from gateway import demo as gateway_demo

        plan = gateway_demo.prepare(port_offset)
        code = _run(gateway_demo.run(plan))
    raise typer.Exit(code)


@app.command()
def pub(
    place: _PlaceText,
    message: Annotated[str | None, typer.Argument(help="The body.")] = None,
    lines: Annotated[bool, typer.Option("--lines", "-l", help="Publish each line of standard input.")] = False,
    header: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="For queues. May be repeated.")] = None,
    host: _Host = "127.0.0.1",
    port: _Port = None,
    user: _User = None,
) -> None:
    """Publish a message and wait until it is safe (MQTT QoS 1, STOMP receipt)."""
    with _one_line_errors():
        from gateway.clients import commands

        if lines == (message is not None):
            raise typer.BadParameter("give either a message or --lines")
        bodies = _lines_of_stdin() if message is None else [os.fsencode(message)]
        where, server = _connection(place, host, port, user)
        commands.publish(where, server, bodies, _headers(header or []))


@app.command()
def sub(
    place: _PlaceText,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Leave after so many messages.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show headers, too.")] = False,
    host: _Host = "127.0.0.1",
    port: _Port = None,
    user: _User = None,
) -> None:
    """Print messages as they come. One from a queue is acknowledged, and so deleted, once it is printed."""
    with _one_line_errors():
        from gateway.clients import commands

        where, server = _connection(place, host, port, user)
        try:
            if verbose:
                commands.subscribe(where, server, count, lambda: _tell_subscribed(where), _show_with_headers)
            else:
                commands.subscribe(where, server, count, lambda: None, _show)
        except KeyboardInterrupt:
            if count is not None:
                raise  # without a count, it is the way to end


def _connection(place: str, host: str, port: int | None, user: str | None) -> tuple[Place, Server]:
    """Where to, and as whom. The client libraries log what is told here in one line, so they are silenced."""
    import logging

    from gateway.clients.port import DEFAULT_PORTS, Place, Server

    logging.disable()
    where = Place.parse(place)
    password = None if user is None else _password(user)
    return where, Server(host=host, port=port or DEFAULT_PORTS[where.kind], user=user, password=password)


def _password(user: str) -> str:
    """From the environment, or from the terminal; never from an argument, which every process can see."""
    import getpass
    import warnings

    password = os.environ.get(PASSWORD_VARIABLE)
    if password is not None:
        return password
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(f"Password of {user}: ")
        except (getpass.GetPassWarning, EOFError) as error:
            raise MqliftError(f"no terminal to ask for the password of {user}; set {PASSWORD_VARIABLE}") from error


def _headers(texts: Iterable[str]) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--header")
        headers[name] = value
    return headers


def _lines_of_stdin() -> Iterator[bytes]:
    for line in sys.stdin.buffer:
        yield line.removesuffix(b"\n").removesuffix(b"\r")


def _tell_subscribed(where: Place) -> None:
    typer.echo(f"subscribed to {where}; Ctrl-C ends", err=True)


def _show(message: Incoming) -> None:
    _print(message.body)


def _show_with_headers(message: Incoming) -> None:
    head = "".join(f"{name}: {value}\n" for name, value in message.headers.items())
    _print(f"{head}\n".encode() + message.body)


def _print(text: bytes) -> None:
    """Returns once it has left this process, or raises: what was not printed is not acknowledged."""
    try:
        sys.stdout.buffer.write(text + b"\n")
        sys.stdout.buffer.flush()
    except OSError as error:
        _abandon(sys.stdout)
        raise MqliftError(f"standard output: {os.strerror(error.errno or 0).lower()}") from error


def _abandon(stream: TextIO) -> None:
    """Nothing more can be written; without this, the interpreter tries once more when it ends, and complains."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _run(main_task: Coroutine[object, object, _T]) -> _T:
    """Run on uvloop where it is installed: its reads and writes cost less."""
    import asyncio

    try:
        import uvloop
    except ModuleNotFoundError:
        return asyncio.run(main_task)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main_task)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """What a user can mend is told on standard error, a line each, those of a configuration led by its file."""
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_MISTAKE) from None
    except MqliftError as error:
        typer.echo(f"mqlift: {error}", err=True)
        raise typer.Exit(EXIT_FAILURE) from None


operator_commands.add_commands(app, _one_line_errors)
accounts.add_commands(app, _one_line_errors)
iam_command.add_commands(app, _one_line_errors)


def _tell_bug(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Whatever is no documented error is a bug: a line for the user, the rest for who is asked about it."""
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(kind, error, trace)
        return
    reason = " ".join(str(error).split())
    typer.echo(f"mqlift: internal error: {kind.__name__}: {reason} ({TRACEBACK_VARIABLE}=1 shows where)", err=True)
