"""What stays open ends with its token, and nothing else does: blocks of code, WebSockets, streams of events."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sidegate
from conftest import answers, bearer, eventually, log_in, log_out
from sidegate.testing import TestVerifier
from sidegate.watch import until_ended
from stack import Stack, free_port
from websockets.sync.client import connect


def test_block_ends_with_its_token() -> None:
    verifier = TestVerifier()
    mine, other = verifier.issue("1"), verifier.issue("2")
    reached: list[str] = []

    async def hold(token: str) -> None:
        async with verifier.watch(verifier.check(token)):
            await asyncio.sleep(60)
        reached.append("after the block")

    async def main() -> None:
        mine_held, other_held = asyncio.create_task(hold(mine)), asyncio.create_task(hold(other))
        await asyncio.sleep(0)
        verifier.revoke(mine)
        with pytest.raises(sidegate.RevokedTokenError):
            await mine_held
        assert not other_held.done()
        other_held.cancel()
        with pytest.raises(asyncio.CancelledError):
            await other_held

    asyncio.run(main())
    assert reached == []


def test_cancellation_from_outside_is_not_ours() -> None:
    verifier = TestVerifier()
    token = verifier.issue("1")

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(hold(), 0.01)

    async def hold() -> None:
        async with verifier.watch(verifier.check(token)):
            await asyncio.sleep(60)

    asyncio.run(main())


def test_ended_before_it_is_watched() -> None:
    verifier = TestVerifier()
    token = verifier.issue("1")
    checked = verifier.check(token)
    verifier.revoke(token)

    async def main() -> None:
        async with verifier.watch(checked):
            await asyncio.sleep(60)

    with pytest.raises(sidegate.RevokedTokenError):
        asyncio.run(main())


def test_block_that_ends_first_is_left_alone() -> None:
    verifier = TestVerifier()
    token = verifier.issue("1")

    async def main() -> str:
        async with verifier.watch(verifier.check(token)) as watch:
            pass
        verifier.revoke(token)
        await asyncio.sleep(0.01)
        assert watch.error is None
        return "done"

    assert asyncio.run(main()) == "done"


def test_events_end_with_their_token() -> None:
    verifier = TestVerifier()
    token = verifier.issue("1")
    closed: list[str] = []

    async def events() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
            await asyncio.sleep(60)
            yield 3
        finally:
            closed.append("closed")

    async def main() -> list[int]:
        seen: list[int] = []
        async for event in until_ended(verifier.watch_token, verifier.check(token), events()):
            seen.append(event)
            if event == 2:
                asyncio.get_running_loop().call_later(0.01, verifier.revoke, token)
        return seen

    assert asyncio.run(main()) == [1, 2]
    assert closed == ["closed"]


def test_events_that_end_or_fail_by_themselves() -> None:
    verifier = TestVerifier()
    token = verifier.check(verifier.issue("1"))

    async def events(fails: bool) -> AsyncIterator[int]:
        yield 1
        if fails:
            raise ValueError("the source")

    async def collect(fails: bool) -> list[int]:
        return [event async for event in until_ended(verifier.watch_token, token, events(fails))]

    assert asyncio.run(collect(False)) == [1]
    with pytest.raises(ValueError, match="the source"):
        asyncio.run(collect(True))


@pytest.fixture(scope="module")
def app(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "watched_app:app", "--app-dir", str(Path(__file__).parent)]
    command += ["--port", str(port), "--log-level", "warning"]
    log = tmp_path_factory.mktemp("watched") / "log"
    with (
        log.open("wb") as out,
        subprocess.Popen(command, env=os.environ | stack.app_settings, stdout=out, stderr=out) as server,
    ):
        try:
            eventually("uvicorn answers", lambda: answers(f"http://127.0.0.1:{port}/"))
            yield f"127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGTERM)
    assert "Traceback" not in log.read_text()


def websocket(app: str, prefix: str, token: str) -> Any:
    return connect(f"ws://{app}{prefix}/ws", additional_headers=bearer(token))


@pytest.mark.parametrize("prefix", ["", "/behind"])
def test_websocket_is_closed_with_its_session(stack: Stack, app: str, prefix: str) -> None:
    mine, other = log_in(stack)["access_token"], log_in(stack)["access_token"]
    with websocket(app, prefix, mine) as cut, websocket(app, prefix, other) as stays:
        for socket in (cut, stays):
            socket.send("before")
            assert socket.recv(timeout=60) == "before"
        log_out(stack, mine)
        with pytest.raises(Exception, match="4401"):
            cut.recv(timeout=60)
        assert (cut.close_code, cut.close_reason) == (4401, "token_revoked")
        stays.send("after")
        assert stays.recv(timeout=60) == "after"


@pytest.mark.parametrize("prefix", ["", "/behind"])
def test_stream_of_events_ends_with_its_session(stack: Stack, app: str, prefix: str) -> None:
    mine, other = log_in(stack)["access_token"], log_in(stack)["access_token"]
    url = f"http://{app}{prefix}/events"
    with (
        httpx.Client(timeout=60) as client,
        client.stream("GET", url, headers=bearer(mine)) as cut,
        client.stream("GET", url, headers=bearer(other)) as on,
    ):
        of_mine, of_other = cut.iter_lines(), on.iter_lines()
        assert next(of_mine) == next(of_other) == "data: 0"
        log_out(stack, mine)
        # Ends as a complete response does: the client need not guess.
        for _ in of_mine:
            pass
        for _ in range(3):
            next(of_other)


def test_what_is_complete_is_not_watched(stack: Stack, app: str) -> None:
    token = log_in(stack)["access_token"]
    answer = httpx.get(f"http://{app}/behind/plain", headers=bearer(token))
    assert (answer.status_code, answer.text) == (200, "plain")


def test_daemon_that_is_gone_ends_watches_after_the_grace(tmp_path: Path) -> None:
    daemon = Stack(tmp_path, bcrypt_cost=4)
    try:
        daemon.make_users()
        daemon.start_issuer()
        daemon.start_verifier()
        where = daemon.verifier_settings
        verifier = sidegate.Verifier(where["VERIFIER_SOCKET"], where["ATTACH_SOCKET"], watch_grace=0.5)
        eventually("attached", lambda: verifier.attached)
        access_token = log_in(daemon)["access_token"]
        eventually("good from memory alone", lambda: verifier.check(access_token).still_good())
        token = verifier.check(access_token)
        ends: list[sidegate.SidegateError] = []
        watched = verifier.watch_token(token, ends.append)
        daemon.stop()
        eventually("the watch ends", lambda: bool(ends))
        assert isinstance(ends[0], sidegate.VerifierUnavailableError)
        assert not token.still_good()
        watched.stop()
    finally:
        daemon.stop()


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="watch_grace"):
        sidegate.Verifier("/nowhere", attach=False, watch_grace=-1)
    unchecked = TestVerifier()
    token = unchecked.check(unchecked.issue("1"))
    assert not token.still_good()
    with pytest.raises(TypeError, match="not checked"):
        sidegate.Verifier("/nowhere", attach=False).watch_token(token, print)
