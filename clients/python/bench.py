#!/usr/bin/env python3
"""Measures a check in Python: against no check, PyJWT, and PyJWT with the usual blacklist in Redis.

Rows for a call, for routes of FastAPI and Starlette under uvicorn, and for views of Flask and Django REST framework
called without a server. Each is measured in turns with its peer, in pieces of about equal length, so that a noisy
machine slows both alike. Run by `./bench`, which sets up what it needs.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import wsgiref.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jwt
import redis
import redis.asyncio
import sidegate
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from fastapi import Depends, FastAPI, HTTPException, Request
from sidegate.fastapi import install, require_user
from sidegate.starlette import SidegateMiddleware
from stack import PASSWORD, USERS, Stack, free_port
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

CALL_ROUNDS = 51
CALL_SECONDS = 0.005
ROUTE_ROUNDS = 7
REQUESTS = 1_500
CONNECTIONS = 16
PEERS = {"hs256": "PyJWT HS256", "rs256": "PyJWT RS256", "redis": "PyJWT HS256 + Redis GET"}
CHECKS: dict[str, Any] = {
    "audience": "sidegate",
    "issuer": "sidegate",
    "options": {"require": ["exp", "sub", "jti", "sid"]},
}


def row(
    name: str,
    unit: str,
    peer: str,
    ours: list[float],
    theirs: list[float],
    goal: float | None,
    ratio: str,
    ours_at_most: float | None = None,
) -> None:
    """One line, in the form of all of Sidegate's benchmarks; `ratio` says the direction of the ratio."""
    pairs = zip(theirs, ours) if ratio == "theirs/ours" else zip(ours, theirs)
    ratios = sorted(above / below for above, below in pairs)
    middle = statistics.median(ratios)
    judged = "goal -" if goal is None else f"goal >= {goal:g} {'met' if middle >= goal else 'MISSED'}"
    if ours_at_most is not None:
        met = "met" if statistics.median(ours) <= ours_at_most else "MISSED"
        judged = f"goal ours <= {ours_at_most:g} {unit} {met}"
    print(
        f"{name:<34} ours {statistics.median(ours):>11.2f} {unit:<6} {peer:>24} {statistics.median(theirs):>11.2f}"
        f"   {ratio} {middle:>6.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f}, {len(ratios)} pairs)  {judged}",
        flush=True,
    )


def log_in(stack: Stack, email: str) -> str:
    """The access token of a login."""
    body = json.dumps({"email": email, "password": PASSWORD}).encode()
    request = urllib.request.Request(f"{stack.issuer_url}/auth/login", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        token: str = json.load(answer)["access_token"]
        return token


class Tokens:
    """The same claims, signed by the issuer for Sidegate, and with RS256 for the peer that needs it."""

    def __init__(self, stack: Stack) -> None:
        self.secret = stack.issuer_settings["JWT_SECRET_KEY"]
        self.hs256 = log_in(stack, USERS[0][0])
        claims = jwt.decode(self.hs256, self.secret, algorithms=["HS256"], **CHECKS)
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = key.public_key()
        pem = public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        self.rs256 = jwt.encode(claims, key, algorithm="RS256")
        self.public_pem = pem.decode()


def calls(tokens: Tokens, verifier: sidegate.Verifier, redis_port: int) -> dict[str, Callable[[], Any]]:
    public = serialization.load_pem_public_key(tokens.public_pem.encode())
    blacklist = redis.Redis(port=redis_port)

    def with_redis() -> None:
        claims = jwt.decode(tokens.hs256, tokens.secret, algorithms=["HS256"], **CHECKS)
        assert blacklist.get(f"revoked:{claims['jti']}") is None

    return {
        "sidegate": lambda: verifier.check(tokens.hs256),
        "hs256": lambda: jwt.decode(tokens.hs256, tokens.secret, algorithms=["HS256"], **CHECKS),
        "rs256": lambda: jwt.decode(tokens.rs256, public, algorithms=["RS256"], **CHECKS),  # type: ignore[arg-type]
        "redis": with_redis,
    }


def per_call(work: Callable[[], Any], times: int) -> float:
    """Microseconds."""
    started = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started) / times * 1e6


def bench_calls(tokens: Tokens, stack: Stack, redis_port: int) -> None:
    where = stack.verifier_settings
    verifier = sidegate.Verifier(where["VERIFIER_SOCKET"], where["ATTACH_SOCKET"])
    while not verifier.attached:
        time.sleep(0.01)
    works = calls(tokens, verifier, redis_port)
    # Pieces short enough to fit between two other processes' turns, for all alike.
    warm = {name: min(per_call(work, 20) for _ in range(20)) for name, work in works.items()}
    times = {name: max(1, int(CALL_SECONDS / (microseconds / 1e6))) for name, microseconds in warm.items()}
    figures: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(CALL_ROUNDS):
        for name, work in works.items():
            figures[name].append(per_call(work, times[name]))
    assert verifier.try_cached(tokens.hs256) is not None, "the daemon was asked, so this would not measure the cache"
    for name, goal in [("hs256", 10.0), ("rs256", None), ("redis", 100.0)]:
        row("Python check, seen token", "us", PEERS[name], figures["sidegate"], figures[name], goal, "theirs/ours")


def make_starlette() -> Starlette:
    """The same behind the middleware, or without one."""
    guards = [Middleware(SidegateMiddleware)] if os.environ["BENCH_GUARD"] == "middleware" else []

    async def route(request: Request) -> PlainTextResponse:
        return PlainTextResponse("1")

    return Starlette(routes=[Route("/", route)], middleware=guards)


def make_app() -> FastAPI:
    """The measured route, protected as `BENCH_GUARD` says."""
    guard, app = os.environ["BENCH_GUARD"], FastAPI()
    if guard == "sidegate":
        install(app)
    blacklist = redis.asyncio.Redis(port=int(os.environ["BENCH_REDIS"]))
    public = serialization.load_pem_public_key(os.environ["BENCH_PUBLIC"].encode())
    key: Any = public if guard == "rs256" else os.environ["BENCH_SECRET"]
    algorithm = "RS256" if guard == "rs256" else "HS256"

    async def decode(request: Request) -> dict[str, Any]:
        token = request.headers["authorization"].removeprefix("Bearer ")
        try:
            claims: dict[str, Any] = jwt.decode(token, key, algorithms=[algorithm], **CHECKS)
        except jwt.InvalidTokenError as error:
            raise HTTPException(401) from error
        if guard == "redis" and await blacklist.get(f"revoked:{claims['jti']}") is not None:
            raise HTTPException(401)
        return claims

    async def unprotected() -> dict[str, Any]:
        return {"sub": "1"}

    dependency: Any = {"sidegate": require_user, "none": unprotected}.get(guard, decode)

    @app.get("/")
    async def route(user: Any = Depends(dependency)) -> str:  # noqa: B008 - how FastAPI works
        return str(user["sub"])

    return app


@contextmanager
def served(guard: str, settings: dict[str, str]) -> Iterator[int]:
    """The route under uvicorn, in its own process; yields the port."""
    port = free_port()
    factory = "bench:make_starlette" if guard.endswith("middleware") else "bench:make_app"
    command = [sys.executable, "-m", "uvicorn", factory, "--factory", "--app-dir", str(Path(__file__).parent)]
    command += ["--port", str(port), "--no-access-log", "--log-level", "warning"]
    process = subprocess.Popen(command, env=os.environ | settings | {"BENCH_GUARD": guard})
    try:
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


async def load(port: int, token: str, requests: int) -> float:
    """Requests a second over kept connections."""
    request = f"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n".encode()

    async def connection(share: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(share):
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(connection(requests // CONNECTIONS) for _ in range(CONNECTIONS)))
    return requests / (time.perf_counter() - started)


def bench_routes(tokens: Tokens, stack: Stack, redis_port: int) -> None:
    settings = stack.app_settings | {"BENCH_SECRET": tokens.secret, "BENCH_PUBLIC": tokens.public_pem}
    settings["BENCH_REDIS"] = str(redis_port)
    figures: dict[str, list[float]] = {}
    with ExitStack() as servers:
        guards = ["sidegate", "none", *PEERS, "middleware", "no middleware"]
        ports = {guard: servers.enter_context(served(guard, settings)) for guard in guards}
        for port in ports.values():
            until_open(port)
        for turn in range(-1, ROUTE_ROUNDS):
            for guard, port in ports.items():
                token = tokens.rs256 if guard == "rs256" else tokens.hs256
                figure = asyncio.run(load(port, token, REQUESTS))
                # The first turn warms up.
                if turn >= 0:
                    figures.setdefault(guard, []).append(figure)
    rows = [
        ("FastAPI route, require_user", "sidegate", "none", "empty dependency", 0.97),
        ("FastAPI route, require_user", "sidegate", "hs256", PEERS["hs256"], 1.4),
        ("FastAPI route, require_user", "sidegate", "rs256", PEERS["rs256"], None),
        ("FastAPI route, require_user", "sidegate", "redis", PEERS["redis"], None),
        ("Starlette, SidegateMiddleware", "middleware", "no middleware", "no middleware", 0.97),
    ]
    for name, ours, theirs, peer, goal in rows:
        row(name, "req/s", peer, figures[ours], figures[theirs], goal, "ours/theirs")


def wsgi_call(app: Any, path: str, token: str) -> Callable[[], None]:
    """One request, as a WSGI server would hand it over."""

    def call() -> None:
        environ: dict[str, Any] = {"PATH_INFO": path, "HTTP_AUTHORIZATION": f"Bearer {token}"}
        wsgiref.util.setup_testing_defaults(environ)
        statuses: list[str] = []
        answer = app(environ, lambda status, headers, error=None: statuses.append(status))
        assert b"".join(answer)
        assert statuses == ["200 OK"], statuses

    return call


def bench_views(tokens: Tokens, stack: Stack) -> None:
    """Flask and Django REST framework, as the examples protect them."""
    os.environ.update(stack.app_settings)
    import django_app  # both connect when they are imported
    import flask_app
    from django.urls import path
    from rest_framework.permissions import AllowAny
    from rest_framework.response import Response

    class Open(django_app.Me):
        authentication_classes: list[Any] = []
        permission_classes = [AllowAny]

        def get(self, request: Any) -> Any:
            return Response({"user": "1"})

    def view() -> str:
        return "1"

    flask_app.app.add_url_rule("/bench/open", "open", view)
    flask_app.app.add_url_rule("/bench/guarded", "guarded", flask_app.require_user()(view))
    django_app.urlpatterns.append(path("open", Open.as_view()))
    views = {
        "Flask view, in process": (flask_app.app, "/bench/guarded", "/bench/open"),
        "Django REST view, in process": (django_app.application, "/me", "/open"),
    }
    for name, (app, guarded, unguarded) in views.items():
        works = [wsgi_call(app, place, tokens.hs256) for place in (guarded, unguarded)]
        times = max(1, int(CALL_SECONDS / (min(per_call(works[0], 20) for _ in range(20)) / 1e6)))
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(CALL_ROUNDS):
            ours.append(per_call(works[0], times))
            theirs.append(per_call(works[1], times))
        row(name, "us", "no check", ours, theirs, 0.95, "theirs/ours")


def until_open(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="sidegate-bench-") as temporary:
        stack = Stack(Path(temporary), bcrypt_cost=4)
        port = free_port()
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", temporary]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as server:
            try:
                stack.make_users()
                stack.start_issuer()
                stack.start_verifier()
                until_open(port)
                tokens = Tokens(stack)
                redis.Redis(port=port).set(f"revoked:{secrets.token_hex(8)}", "1")
                bench_calls(tokens, stack, port)
                bench_routes(tokens, stack, port)
                bench_views(tokens, stack)
            finally:
                stack.stop()
                server.terminate()


if __name__ == "__main__":
    main()
