#!/usr/bin/env python3
"""Measures how soon a user's WebSockets are closed after that user's logout, among ten thousand at one uvicorn.

Run by `./bench bench_websockets.py`, which sets up what it needs.
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated

import sidegate
from fastapi import Depends, FastAPI, WebSocket
from sidegate.fastapi import install, require_user, watch
from stack import Stack, free_port

from bench import log_in, row, until_open

SOCKETS = 10_000
PER_USER = 10
LOGOUTS = 30
OPENED_AT_ONCE = 100
WAIT_SECONDS = 10.0
# What either process needs beside its sockets.
OTHER_FILES = 200


def make_app() -> FastAPI:
    app = FastAPI()
    install(app)

    @app.websocket("/ws")
    async def ws(socket: WebSocket, user: Annotated[sidegate.Token, Depends(require_user)]) -> None:
        await socket.accept()
        async with watch(socket, user):
            await socket.send_text("watched")
            async for text in socket.iter_text():
                await socket.send_text(text)

    return app


class Client(asyncio.Protocol):
    """One WebSocket (RFC 6455), which only listens."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.watched: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.closed: tuple[float, int] | None = None
        """When, and with which code."""
        self._bytes = b""
        self._switched = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self._bytes += data
        if not self._switched:
            head, end, rest = self._bytes.partition(b"\r\n\r\n")
            if not end:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self._switched, self._bytes = True, rest
        # Frames of the server are short here, and not masked.
        while len(self._bytes) >= 2 and len(self._bytes) >= 2 + self._bytes[1]:
            kind, length = self._bytes[0] & 0x0F, self._bytes[1]
            payload, self._bytes = self._bytes[2 : 2 + length], self._bytes[2 + length :]
            self._frame(kind, payload)

    def _frame(self, kind: int, payload: bytes) -> None:
        if kind == 1 and not self.watched.done():
            self.watched.set_result(None)
        elif kind == 9:
            self._send(10, payload)
        elif kind == 8:
            self.closed = time.perf_counter(), int.from_bytes(payload[:2], "big")
            self._send(8, payload[:2])
            self.transport.close()

    def _send(self, kind: int, payload: bytes) -> None:
        # Masked with zeros.
        self.transport.write(bytes([0x80 | kind, 0x80 | len(payload)]) + bytes(4) + payload)

    def connection_lost(self, error: Exception | None) -> None:
        if self.closed is None:
            self.closed = time.perf_counter(), 0
        if not self.watched.done():
            self.watched.set_exception(error or ConnectionError("closed before it was open"))


def add_users(stack: Stack, count: int) -> list[str]:
    """Users with alice's password."""
    emails = [f"user-{number}@example.org" for number in range(count)]
    with closing(sqlite3.connect(stack.app_settings["APP_DATABASE"])) as db, db:
        copied = "SELECT ?, 'User', password_hash, scope FROM users WHERE id = 1"
        insert = f"INSERT INTO users (email, name, password_hash, scope) {copied}"
        db.executemany(insert, [(email,) for email in emails])
    return emails


def log_out(stack: Stack, token: str) -> float:
    """Returns when the 204 had come."""
    url, headers = f"{stack.issuer_url}/auth/logout", {"Authorization": f"Bearer {token}"}
    with urllib.request.urlopen(urllib.request.Request(url, b"", headers), timeout=60) as answer:
        assert answer.status == 204
        return time.perf_counter()


@contextmanager
def served(settings: dict[str, str]) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "bench_websockets:make_app", "--factory"]
    command += ["--app-dir", str(Path(__file__).parent), "--port", str(port), "--log-level", "error"]
    process = subprocess.Popen(command, env=os.environ | settings)
    try:
        until_open(port)
        yield port
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(20)


async def open_all(port: int, tokens: list[str], count: int) -> list[Client]:
    """Number N has token N modulo the number of tokens."""
    loop = asyncio.get_running_loop()

    async def one(token: str) -> Client:
        request = (
            f"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Authorization: Bearer {token}\r\n\r\n"
        )
        _, client = await loop.create_connection(lambda: Client(request.encode()), "127.0.0.1", port)
        await client.watched
        return client

    clients: list[Client] = []
    while len(clients) < count:
        numbers = range(len(clients), min(count, len(clients) + OPENED_AT_ONCE))
        clients += await asyncio.gather(*(one(tokens[number % len(tokens)]) for number in numbers))
    return clients


async def measure(stack: Stack, port: int, tokens: list[str], count: int) -> list[float]:
    """Milliseconds from the 204 to each close frame."""
    clients = await open_all(port, tokens, count)
    times: list[float] = []
    for number in range(LOGOUTS):
        mine = clients[number :: len(tokens)]
        acknowledged = await asyncio.to_thread(log_out, stack, tokens[number])
        while not all(client.closed for client in mine):
            assert time.perf_counter() < acknowledged + WAIT_SECONDS, "still open"
            await asyncio.sleep(0.005)
        for client in mine:
            assert client.closed is not None
            assert client.closed[1] == 4401, client.closed
            times.append(max(0.0, client.closed[0] - acknowledged) * 1e3)
        closed = sum(client.closed is not None for client in clients)
        assert closed == (number + 1) * len(mine), "another user's WebSocket was closed"
    for client in clients:
        client.transport.abort()
    return times


def main() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    count = min(SOCKETS, most - OTHER_FILES) // PER_USER * PER_USER
    with tempfile.TemporaryDirectory(prefix="sidegate-bench-") as temporary:
        stack = Stack(Path(temporary), bcrypt_cost=4)
        try:
            stack.make_users()
            emails = add_users(stack, count // PER_USER)
            stack.start_issuer()
            stack.start_verifier()
            tokens = [log_in(stack, email) for email in emails]
            with served(stack.app_settings) as port:
                times = asyncio.run(measure(stack, port, tokens, count))
        finally:
            stack.stop()
    p99 = statistics.quantiles(times, n=100)[98]
    name = f"{count} WebSockets, one user's, p99"
    row(name, "ms", "half of them", [p99], [statistics.median(times)], None, "ours/theirs", ours_at_most=100.0)


if __name__ == "__main__":
    main()
