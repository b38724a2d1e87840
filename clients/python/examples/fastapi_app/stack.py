"""Issuer, verifier and application together, as child processes with their own folder."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

HERE = Path(__file__).resolve().parent
PASSWORD = "correct horse battery staple"
USERS = (("alice@example.org", "Alice", "read write"), ("bob@example.org", "Bob", "read"))
TIMEOUT_SECONDS = 60.0

SCHEMA = """
CREATE TABLE users (
    id INTEGER PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    password_hash TEXT,
    active BOOLEAN NOT NULL DEFAULT 1,
    scope TEXT
);
CREATE TABLE notes (id INTEGER PRIMARY KEY, author TEXT NOT NULL, text TEXT NOT NULL);
INSERT INTO notes (author, text) VALUES ('1', 'Logout means logout');
"""


def binary(name: str) -> str:
    """The program's path: from SIDEGATE_BIN, from this repository's build, or from PATH."""
    folders = [os.environ.get("SIDEGATE_BIN"), str(HERE.parents[3] / "target" / "release")]
    found = shutil.which(name, path=os.pathsep.join(folder for folder in folders if folder)) or shutil.which(name)
    if found is None:
        raise SystemExit(
            f"{name} is neither in SIDEGATE_BIN, nor in target/release (cargo build --release), nor in PATH"
        )
    return found


def free_port() -> int:
    """A TCP port that is free right now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Stack:
    """Everything the example needs. Ports that are 0 are chosen."""

    def __init__(self, folder: Path, *, app_port: int = 0, issuer_port: int = 0, bcrypt_cost: int = 12) -> None:
        self.folder = folder
        self.app_port = app_port or free_port()
        self.issuer_url = f"http://127.0.0.1:{issuer_port or free_port()}"
        self.app_url = f"http://127.0.0.1:{self.app_port}"
        self.admin_token = secrets.token_urlsafe(32)
        self._issuer_admin = f"http://127.0.0.1:{free_port()}"
        self._verifier_admin = f"http://127.0.0.1:{free_port()}"
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        feed = f"127.0.0.1:{free_port()}"
        secret = secrets.token_urlsafe(48)
        self.issuer_settings = {
            "ISSUER_LISTEN": self.issuer_url.removeprefix("http://"),
            "ISSUER_ADMIN_LISTEN": self._issuer_admin.removeprefix("http://"),
            "ISSUER_FEED_LISTEN": feed,
            "JWT_SECRET_KEY": secret,
            "SESSION_SECRET_KEY": secrets.token_urlsafe(48),
            "ADMIN_TOKEN": self.admin_token,
            # The application's own table: read, never written.
            "DATABASE_URL": f"sqlite://{folder / 'app.db'}",
            "USERS_SCOPE_COLUMN": "scope",
            "USERS_ACTIVE_COLUMN": "active",
            "STORE_URL": f"sqlite://{folder / 'sidegate.db'}",
            "BCRYPT_COST": str(bcrypt_cost),
            # So that the docs page, which comes from the application, may log in at the issuer.
            "CORS_ORIGINS": f"{self.app_url},http://localhost:{self.app_port}",
        }
        self.verifier_settings = {
            "VERIFIER_SOCKET": str(folder / "verifier.sock"),
            "ATTACH_SOCKET": str(folder / "attach.sock"),
            "VERIFIER_ADMIN_LISTEN": self._verifier_admin.removeprefix("http://"),
            "ISSUER_FEED_URL": f"http://{feed}",
            "JWT_SECRET_KEY": secret,
        }
        self.app_settings = {
            "VERIFIER_SOCKET": self.verifier_settings["VERIFIER_SOCKET"],
            "ATTACH_SOCKET": self.verifier_settings["ATTACH_SOCKET"],
            "ISSUER_URL": self.issuer_url,
            "APP_DATABASE": str(folder / "app.db"),
        }

    def make_users(self) -> None:
        """The application's database, with two users, unless it is there already."""
        path = Path(self.app_settings["APP_DATABASE"])
        if path.exists():
            return
        hashing = [binary("sidegate-issuer"), "hash-password"]
        hashed = subprocess.run(
            hashing,
            input=PASSWORD + "\n",
            env=os.environ | self.issuer_settings,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        with closing(sqlite3.connect(path)) as db, db:
            db.executescript(SCHEMA)
            insert = "INSERT INTO users (email, name, password_hash, scope) VALUES (?, ?, ?, ?)"
            db.executemany(insert, [(email, name, hashed, scope) for email, name, scope in USERS])

    def start_issuer(self) -> None:
        self._start("issuer", [binary("sidegate-issuer"), "serve"], self.issuer_settings)
        self._until_answering("issuer", f"{self._issuer_admin}/readyz")

    def start_verifier(self) -> None:
        self._start("verifier", [binary("sidegate-verifier"), "serve"], self.verifier_settings)
        self._until_answering("verifier", f"{self._verifier_admin}/readyz")

    def start_app(self, workers: int = 1) -> None:
        uvicorn = [sys.executable, "-m", "uvicorn", "app:app", "--app-dir", str(HERE), "--no-access-log"]
        self._start("app", [*uvicorn, "--port", str(self.app_port), "--workers", str(workers)], self.app_settings)
        self._until_answering("app", self.app_url)

    def start(self, workers: int = 1) -> None:
        """Users, issuer, verifier, application; each is ready when this returns."""
        self.make_users()
        self.start_issuer()
        self.start_verifier()
        self.start_app(workers)

    def stop(self) -> None:
        for name in list(self._processes)[::-1]:
            self.end(name)

    def end(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Ends one of the processes and waits for it."""
        process = self._processes.pop(name)
        process.send_signal(how)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def wait(self) -> str:
        """Waits until one of the processes ends; returns its name."""
        while True:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    return name
            time.sleep(0.2)

    def revoke(self, what: dict[str, object]) -> None:
        """Revokes as an application does after a password change: `POST /admin/revocations`."""
        headers = {"Authorization": f"Bearer {self.admin_token}", "Content-Type": "application/json"}
        url = f"{self._issuer_admin}/admin/revocations"
        request = urllib.request.Request(url, json.dumps(what).encode(), headers, method="POST")
        with urllib.request.urlopen(request, timeout=20) as answer:
            assert answer.status == 204

    def _start(self, name: str, command: Sequence[str], settings: dict[str, str]) -> None:
        with open(self.folder / f"{name}.log", "ab") as log:
            self._processes[name] = subprocess.Popen(
                command, env=os.environ | settings, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _until_answering(self, name: str, url: str) -> None:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                with urllib.request.urlopen(url, timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                log = self.folder / f"{name}.log"
                if self._processes[name].poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{name} did not start:\n{log.read_text()[-4000:]}") from None
                time.sleep(0.02)
