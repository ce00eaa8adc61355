"""`mqlift iam-policy`: what the gateway must be allowed in AWS, ready for IAM."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Final

import typer

_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_REGION_VARIABLES: Final = ("AWS_REGION", "AWS_DEFAULT_REGION")

_Config = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration, in YAML.")]
_Create = Annotated[
    bool | None,
    typer.Option("--create/--no-create", help="With the right to create and delete; default: as provision says."),
]
_Account = Annotated[
    str, typer.Option(metavar="ID", help="The account of what is named without one; default: any, as '*'.")
]
_Keys = Annotated[
    list[str] | None, typer.Option("--kms-key", metavar="ARN", help="A key that encrypts a queue. Repeatable.")
]


def add_commands(app: typer.Typer, one_line_errors: Callable[[], AbstractContextManager[None]]) -> None:
    """Add the command to the others. `one_line_errors` tells what a user can mend."""

    @app.command("iam-policy")
    def iam_policy(config: _Config, create: _Create = None, account: _Account = "*", kms_key: _Keys = None) -> None:
        """Print the IAM policy that exactly this configuration needs. AWS is not asked for anything."""
        with one_line_errors():
            for line in _notes(_print_policy(config, create, account, kms_key or []), account, kms_key or []):
                typer.echo(f"note: {line}", err=True)


def _print_policy(config: Path, create: bool | None, account: str, keys: list[str]) -> int:
    """Print it to standard output. Gives its size in characters, as IAM counts them."""
    import json

    from adapters.aws.permissions import ANY, Scope
    from config.settings import load
    from gateway import iam
    from gateway.assembly import assemble

    if account != ANY and not _ACCOUNT.fullmatch(account):
        raise typer.BadParameter(f"{account!r} is no account; it has 12 digits", param_hint="--account")
    assembly = assemble(load(config))
    region = assembly.aws.region or next(filter(None, map(os.environ.get, _REGION_VARIABLES)), ANY)
    wanted = assembly.settings.provision == "auto" if create is None else create
    document = iam.policy(assembly, Scope.of(region, account), create=wanted, keys=keys)
    typer.echo(json.dumps(document, indent=2))
    return len(json.dumps(document, separators=(",", ":")))


def _notes(size: int, account: str, keys: list[str]) -> list[str]:
    from gateway.iam import MANAGED_POLICY_LIMIT

    notes = []
    if account == "*":
        notes.append("--account ID narrows the resources to your account")
    if not keys:
        notes.append("queues that are encrypted with a KMS key of your own need it too: --kms-key ARN")
    if size > MANAGED_POLICY_LIMIT:
        notes.append(f"{size} characters are more than a managed policy may have ({MANAGED_POLICY_LIMIT}); split it")
    return notes
