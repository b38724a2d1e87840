"""Getting tokens: one login, one refresh for many requests, one retry, and errors of the issuer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from sidegate.httpx import IssuerError, LoginRequiredError, SidegateAuth, Tokens

ISSUER = "http://issuer.test"
EMAIL, PASSWORD = "alice@example.org", "correct horse battery staple"


class World:
    """An issuer and a service behind one transport. Each refresh token works once, so that a second refresh fails."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.generation = 0
        self.good: set[str] = set()
        self.refresh: str | None = None
        self.fail: httpx.Response | Exception | None = None
        self.pause = 0.0
        self.hold: Callable[[], bool] = lambda: False
        self.seen: list[str] = []

    def issue(self) -> httpx.Response:
        self.generation += 1
        access, self.refresh = f"access-{self.generation}", f"refresh-{self.generation}"
        self.good.add(access)
        body = {"access_token": access, "refresh_token": self.refresh, "token_type": "bearer", "expires_in": 3600}
        return httpx.Response(200, json=body)

    def answer(self, request: httpx.Request, body: bytes) -> httpx.Response:
        path = request.url.path
        with self.lock:
            self.calls[path] += 1
            if path.startswith("/auth/") and self.fail is not None:
                if isinstance(self.fail, Exception):
                    raise self.fail
                return self.fail
            if path == "/auth/login":
                return self.issue() if PASSWORD.encode() in body else problem(401, "invalid_credentials")
            if path == "/auth/refresh":
                known = self.refresh is not None and f'"{self.refresh}"'.encode() in body
                return self.issue() if known else problem(401, "invalid_grant")
            access = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if path == "/auth/logout":
                self.good.discard(access)
                self.refresh = None
                return httpx.Response(204)
            self.seen.append(access)
            return httpx.Response(200, text=body.decode()) if access in self.good else problem(401, "token_revoked")

    def client(self, auth: SidegateAuth) -> httpx.Client:
        return httpx.Client(auth=auth, transport=Transport(self), base_url="http://service.test")

    def async_client(self, auth: SidegateAuth) -> httpx.AsyncClient:
        return httpx.AsyncClient(auth=auth, transport=Transport(self), base_url="http://service.test")


class Transport(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Consumes a request's body as the network does: httpx's own mock makes every body repeatable."""

    def __init__(self, world: World) -> None:
        self.world = world

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        body = b"".join(request.stream)
        if request.url.path.startswith("/auth/"):
            time.sleep(self.world.pause)
            while self.world.hold():
                time.sleep(0.001)
        return self.world.answer(request, body)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        body = b"".join([chunk async for chunk in request.stream])
        if request.url.path.startswith("/auth/"):
            await asyncio.sleep(self.world.pause)
        return self.world.answer(request, body)


def problem(status: int, code: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "status": status})


@pytest.fixture
def world() -> World:
    return World()


def expired(world: World) -> Tokens:
    world.issue()
    assert world.refresh is not None
    return Tokens("access-1", world.refresh, time.time() - 1)


def run_sync(world: World, auth: SidegateAuth, requests: int) -> list[int]:
    with world.client(auth) as client, ThreadPoolExecutor(requests) as pool:
        return [answer.status_code for answer in pool.map(lambda _: client.get("/me"), range(requests))]


def run_async(world: World, auth: SidegateAuth, requests: int) -> list[int]:
    async def main() -> list[int]:
        async with world.async_client(auth) as client:
            answers = await asyncio.gather(*(client.get("/me") for _ in range(requests)))
            return [answer.status_code for answer in answers]

    return asyncio.run(main())


both = pytest.mark.parametrize("run", [run_sync, run_async])
Run = Callable[[World, SidegateAuth, int], list[int]]


@both
def test_one_login_serves_many_requests(world: World, run: Run) -> None:
    changes: list[Tokens | None] = []
    auth = SidegateAuth(ISSUER, EMAIL, PASSWORD, on_change=changes.append)
    world.pause = 0.02
    assert run(world, auth, 64) == [200] * 64
    assert run(world, auth, 1) == [200]
    assert world.calls == {"/auth/login": 1, "/me": 65}
    assert changes == [auth.tokens]
    assert "access" not in repr(auth.tokens)


@both
def test_64_requests_with_an_expired_token_refresh_once(world: World, run: Run) -> None:
    auth = SidegateAuth(ISSUER, tokens=expired(world))
    world.pause = 0.02
    assert run(world, auth, 64) == [200] * 64
    assert world.calls == {"/auth/refresh": 1, "/me": 64}
    assert set(world.seen) == {"access-2"}


@both
def test_64_rejected_requests_refresh_once_and_retry_once_each(world: World, run: Run) -> None:
    tokens = expired(world)
    auth = SidegateAuth(ISSUER, tokens=Tokens("unknown", tokens.refresh_token, time.time() + 600))
    world.pause = 0.02
    assert run(world, auth, 64) == [200] * 64
    assert world.calls["/auth/refresh"] == 1
    assert "/auth/login" not in world.calls
    assert 65 <= world.calls["/me"] <= 128


@both
def test_request_is_sent_at_most_twice(world: World, run: Run) -> None:
    auth = SidegateAuth(ISSUER, EMAIL, PASSWORD)
    assert run(world, auth, 1) == [200]
    issue = world.issue

    def issue_bad() -> httpx.Response:
        answer = issue()
        world.good.clear()
        return answer

    world.good.clear()
    world.issue = issue_bad  # type: ignore[method-assign]
    world.calls.clear()
    assert run(world, auth, 1) == [401]
    assert world.calls == {"/me": 2, "/auth/refresh": 1}


@both
def test_ended_session_leads_to_a_new_login(world: World, run: Run) -> None:
    auth = SidegateAuth(ISSUER, EMAIL, PASSWORD)
    assert run(world, auth, 1) == [200]
    world.good.clear()
    world.refresh = None
    assert run(world, auth, 1) == [200]
    assert world.calls["/auth/login"] == 2


@both
def test_ended_session_without_password_raises_login_needed(world: World, run: Run) -> None:
    changes: list[Tokens | None] = []
    tokens = expired(world)
    world.refresh = None
    auth = SidegateAuth(ISSUER, tokens=tokens, on_change=changes.append)
    with pytest.raises(LoginRequiredError) as needed:
        run(world, auth, 1)
    assert needed.value.code == "invalid_grant"
    assert changes == [None]
    with pytest.raises(LoginRequiredError):
        run(world, SidegateAuth(ISSUER), 1)


class Counted(SidegateAuth):
    """Counts arrived requests, so that the test waits for all of them even on a slow machine."""

    arrived = 0

    def _needed(self, unfit: str | None) -> bool:
        self.arrived += 1
        return super()._needed(unfit)


@both
def test_wrong_password_is_tried_once(world: World, run: Run) -> None:
    auth = Counted(ISSUER, EMAIL, "wrong")
    if run is run_sync:
        # Each request asks once when it arrives, and the one that logs in once more under the lock.
        world.hold = lambda: auth.arrived < 65
    with pytest.raises(LoginRequiredError) as needed:
        run(world, auth, 64)
    assert needed.value.code == "invalid_credentials"
    assert world.calls == {"/auth/login": 1}


@both
def test_issuer_outage_keeps_the_tokens(world: World, run: Run) -> None:
    auth = SidegateAuth(ISSUER, tokens=expired(world))
    before = auth.tokens
    for failure in (problem(503, "temporarily_unavailable"), httpx.ConnectError("refused")):
        world.fail = failure
        with pytest.raises((IssuerError, httpx.ConnectError)) as failed:
            run(world, auth, 1)
        assert not isinstance(failed.value, LoginRequiredError)
        assert auth.tokens == before
    world.fail = httpx.Response(200, text="<html>")
    with pytest.raises(IssuerError):
        run(world, auth, 1)
    world.fail = None
    assert run(world, auth, 1) == [200]


def test_waiting_requests_fail_with_the_refresh(world: World) -> None:
    auth = SidegateAuth(ISSUER, tokens=expired(world))
    world.pause, world.fail = 0.05, httpx.ConnectError("refused")

    async def main() -> list[Any]:
        async with world.async_client(auth) as client:
            return await asyncio.gather(*(client.get("/me") for _ in range(64)), return_exceptions=True)

    assert {type(outcome) for outcome in asyncio.run(main())} == {httpx.ConnectError, IssuerError}
    assert world.calls == {"/auth/refresh": 1}


def test_cancelled_refresh_does_not_block_others(world: World) -> None:
    auth = SidegateAuth(ISSUER, tokens=expired(world))
    world.pause = 0.05

    async def main() -> int:
        async with world.async_client(auth) as client:
            first = asyncio.ensure_future(client.get("/me"))
            await asyncio.sleep(0.01)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            return (await client.get("/me")).status_code

    assert asyncio.run(main()) == 200


def test_repeatable_bodies_are_sent_again(world: World) -> None:
    auth = SidegateAuth(ISSUER, EMAIL, PASSWORD)
    with world.client(auth) as client:
        assert client.post("/echo", json={"a": 1}).text == '{"a":1}'
        world.good.clear()
        assert client.post("/echo", json={"a": 2}).text == '{"a":2}'
        world.good.clear()
        assert client.post("/echo", content=iter([b"once"])).status_code == 401


@pytest.mark.parametrize("scope", ["local", "others", "global"])
def test_logout_ends_the_session(world: World, scope: str) -> None:
    changes: list[Tokens | None] = []
    auth = SidegateAuth(ISSUER, EMAIL, PASSWORD, on_change=changes.append)
    with world.client(auth) as client:
        auth.logout(client)
        assert world.calls == {}
        client.get("/me")
        world.fail = problem(503, "temporarily_unavailable")
        with pytest.raises(IssuerError):
            auth.logout(client, scope=scope)
        assert auth.tokens is not None
        world.fail = None
        auth.logout(client, scope=scope)
        assert (auth.tokens is None) == (scope != "others")
        assert (changes[-1] is None) == (scope != "others")


def test_logout_works_in_async_code(world: World) -> None:
    auth = SidegateAuth(ISSUER, EMAIL, PASSWORD)

    async def main() -> None:
        async with world.async_client(auth) as client:
            await client.get("/me")
            await auth.logout_async(client)
            await auth.logout_async(client)

    asyncio.run(main())
    assert auth.tokens is None
    assert world.calls["/auth/logout"] == 1
