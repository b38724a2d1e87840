"""Programs that a try starts, each with a log of its own, and stops again by process id."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

START_SECONDS = 180.0


def free_port() -> int:
    """A TCP port that is free right now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Programs:
    """Running programs. Each is a process group of its own, so that what it starts ends with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(
        self, name: str, command: Sequence[str], settings: Mapping[str, str], answers: Callable[[], bool]
    ) -> None:
        """Starts a program and waits until it answers."""
        with open(self.log(name), "ab") as log:
            process = subprocess.Popen(
                command,
                env=dict(os.environ) | dict(settings),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
            )
        self._running.append((name, process))
        deadline = time.monotonic() + START_SECONDS
        while not answers():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} did not start; its log ends:\n{self.log_of(name)[-4000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stops all, the newest first."""
        while self._running:
            _end(self._running.pop()[1])

    def end(self, name: str) -> None:
        """Stops one."""
        ended = [running for running in self._running if running[0] == name]
        self._running = [running for running in self._running if running[0] != name]
        for _, process in ended:
            _end(process)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def log_of(self, name: str) -> str:
        """What the program has printed."""
        return self.log(name).read_text(errors="replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
            process.wait(20)
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
