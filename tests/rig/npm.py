"""Client libraries of Node, kept from one test session to the next."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from pathlib import Path

_INSTALL_TIMEOUT = 300.0


def npm_install(sources: Path, folder: Path) -> None:
    """Copy `sources`, a `package.json` and scripts, to `folder`, and put there what it asks for.

    Does nothing when that has been done; waits while another process is at it.
    """
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = folder / "installed"
        for source in sorted(sources.iterdir()):
            copy = folder / source.name
            if not copy.exists() or copy.read_bytes() != source.read_bytes():
                installed.unlink(missing_ok=True)
                shutil.copy(source, copy)
        if installed.exists():
            return
        # npm would look for a lock file and for settings in the folders above otherwise.
        command = [
            "npm",
            "install",
            "--prefix",
            str(folder),
            "--no-audit",
            "--no-fund",
            "--no-package-lock",
            "--silent",
        ]
        subprocess.run(command, cwd=folder, check=True, timeout=_INSTALL_TIMEOUT)
        installed.touch()
