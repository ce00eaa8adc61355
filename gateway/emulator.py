"""The AWS emulator of the demo: ministack in a child process that never outlives its parent.

The child's standard input is a pipe from the parent. It closes when the parent stops the emulator, and also when the
parent dies in any way, and the child then ends itself. Run as a module, this file is that child.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sys
import tempfile
import threading
from typing import IO, Final

import aiohttp

from gateway.core.errors import MqliftError

HOST: Final = "127.0.0.1"
START_LIMIT: Final = 60.0
"""Seconds until the first answer; it takes about one."""
STOP_LIMIT: Final = 5.0
"""Seconds to end in an orderly way, then it is killed."""
ANSWER_LIMIT: Final = 2.0
"""Seconds that one question, whether it is there yet, may take."""
POLL_INTERVAL: Final = 0.05
"""Seconds between those questions."""
TAIL: Final = 4096
"""Bytes of its output that its last words are looked for in."""
KEPT_VARIABLES: Final = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR")
"""Of the environment. The rest might configure the emulator, or hold somebody's credentials."""


class EmulatorFailed(MqliftError):
    """The emulator is not installed, did not start, or ended by itself."""


class Emulator:
    """A running emulator. Made by `start`, ended by `stop`."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, output: IO[bytes]) -> None:
        self.url = f"http://{HOST}:{port}"
        self._process = process
        self._output = output

    @classmethod
    async def start(cls, port: int) -> Emulator:
        """Returns when it answers. Raises `EmulatorFailed`."""
        if importlib.util.find_spec("ministack") is None:
            raise EmulatorFailed("the AWS emulator is not installed; pip install 'mqlift[demo]'")
        output = tempfile.TemporaryFile()  # noqa: SIM115 -- closed by `stop`
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # what lies in the working directory is not to be imported
            "-m",
            "gateway.emulator",
            stdin=asyncio.subprocess.PIPE,
            stdout=output,
            stderr=output,
            env=_environment(port),
            start_new_session=True,  # Ctrl-C in the terminal is for the parent, which stops the child in its turn
        )
        emulator = cls(process, port, output)
        try:
            await emulator._first_answer()
        except BaseException:
            await emulator.stop()
            raise
        return emulator

    async def wait(self) -> EmulatorFailed:
        """Wait until it ends, and say how."""
        status = await self._process.wait()
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - TAIL))
        lines = self._output.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "it wrote nothing")
        return EmulatorFailed(f"the AWS emulator ended by itself (exit status {status}): {last}")

    async def stop(self) -> None:
        """Idempotent."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_LIMIT):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        finally:
            self._output.close()

    async def _first_answer(self) -> None:
        ended = asyncio.create_task(self.wait())
        answered = asyncio.create_task(_answered(self.url))
        try:
            await asyncio.wait({ended, answered}, timeout=START_LIMIT, return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                raise ended.result()
            if not answered.done():
                raise EmulatorFailed(f"the AWS emulator does not answer on {self.url}")
            await answered
        finally:
            ended.cancel()
            answered.cancel()
            await asyncio.wait({ended, answered})


async def _answered(url: str) -> None:
    """Returns on the first answer of any kind."""
    limit = aiohttp.ClientTimeout(total=ANSWER_LIMIT)
    async with aiohttp.ClientSession(timeout=limit) as http:
        while True:
            try:
                async with http.get(url):
                    return
            except (aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(POLL_INTERVAL)


def _environment(port: int) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return kept | {
        "GATEWAY_PORT": str(port),
        "BIND_HOST": HOST,
        "MINISTACK_HOST": HOST,
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
    }


def _end_with_parent() -> None:
    os.read(0, 1)  # returns when the pipe closes: nothing is ever written into it
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(STOP_LIMIT)
    os._exit(1)  # the emulator hangs, and there may be nobody left to kill it


def _main() -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from ministack.app import main  # type: ignore[import-untyped]

    sys.argv[1:] = []  # which it would parse
    main()


if __name__ == "__main__":
    _main()
