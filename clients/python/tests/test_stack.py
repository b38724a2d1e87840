"""The example application with the real issuer and the real daemon: over HTTP, under four workers, through faults."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import sidegate
from conftest import answers, bearer, eventually, log_in, log_out
from sidegate.httpx import LoginRequiredError, SidegateAuth
from stack import PASSWORD, TIMEOUT_SECONDS, Stack, free_port

EMAIL = "alice@example.org"


def get(stack: Stack, path: str, token: str | None = None) -> httpx.Response:
    """On a new connection, so that any of the workers may answer."""
    return httpx.get(stack.app_url + path, headers=bearer(token) if token else {}, timeout=60)


def refused(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert ("www-authenticate" in answer.headers) == (status != 503)


def issuer_counted(stack: Stack, what: str) -> float:
    """A counter of the issuer's metrics, summed over results."""
    metrics = httpx.get(f"http://{stack.issuer_settings['ISSUER_ADMIN_LISTEN']}/metrics").text
    counts = re.findall(rf"^sidegate_issuer_{what}_total{{.*}} (\S+)$", metrics, re.MULTILINE)
    return sum(float(count) for count in counts)


def verifier(stack: Stack, **settings: Any) -> sidegate.Verifier:
    where = stack.verifier_settings
    return sidegate.Verifier(where["VERIFIER_SOCKET"], where["ATTACH_SOCKET"], **settings)


def test_every_outcome_over_http(stack: Stack) -> None:
    alice, bob = log_in(stack)["access_token"], log_in(stack, "bob@example.org")["access_token"]
    me = get(stack, "/me", alice)
    assert (me.status_code, me.json()["email"], me.json()["scopes"]) == (200, EMAIL, ["read", "write"])
    assert get(stack, "/").json() == {"message": "Welcome, whoever you are"}
    assert get(stack, "/", alice).json() == {"message": "Welcome, user 1"}
    assert get(stack, "/notes", bob).json()[0]["text"] == "Logout means logout"
    written = httpx.post(f"{stack.app_url}/notes", json={"text": "hello"}, headers=bearer(alice))
    assert written.status_code == 201
    denied = httpx.post(f"{stack.app_url}/notes", json={"text": "hello"}, headers=bearer(bob))
    refused(denied, 403, "insufficient_scope")
    assert 'scope="read write"' in denied.headers["www-authenticate"]
    refused(get(stack, "/me"), 401, "token_missing")
    assert get(stack, "/me").headers["www-authenticate"] == "Bearer"
    refused(get(stack, "/me", "junk"), 401, "token_invalid")
    refused(get(stack, "/", "junk"), 401, "token_invalid")
    refused(get(stack, "/me", log_in(stack)["refresh_token"]), 401, "token_invalid")
    refused(get(stack, "/me", mint(stack, alice, exp=int(time.time()) - 600)), 401, "token_expired")
    log_out(stack, alice)
    eventually("the logout reaches the daemon", lambda: get(stack, "/me", alice).status_code == 401)
    refused(get(stack, "/me", alice), 401, "token_revoked")
    assert get(stack, "/me", bob).status_code == 200


def mint(stack: Stack, like: str, **changes: Any) -> str:
    """A copy of the token with changed claims, signed with the stack's secret."""
    claims = jwt.decode(like, options={"verify_signature": False}) | {"jti": os.urandom(16).hex()} | changes
    claims["iat"] = min(claims["iat"], claims["exp"] - 60)
    headers = {name: value for name, value in jwt.get_unverified_header(like).items() if name != "alg"}
    secret = changes.pop("secret", stack.issuer_settings["JWT_SECRET_KEY"])
    claims.pop("secret", None)
    return jwt.encode(claims, secret, algorithm="HS256", headers=headers)


def test_exceptions_name_the_fault_of_a_token(stack: Stack) -> None:
    check = verifier(stack).check
    token = log_in(stack)["access_token"]
    assert check(mint(stack, token)).sub == "1"
    later = int(time.time()) + 900
    for wrong, expected in [
        (mint(stack, token, secret="another secret of thirty-two bytes or more"), sidegate.InvalidSignatureError),
        (mint(stack, token, aud="somebody else"), sidegate.InvalidAudienceError),
        (mint(stack, token, iss="somebody else"), sidegate.InvalidIssuerError),
        (mint(stack, token, nbf=later), sidegate.ImmatureSignatureError),
        (mint(stack, token, jti=""), sidegate.MissingRequiredClaimError),
        (mint(stack, token, exp=int(time.time()) - 600), sidegate.ExpiredSignatureError),
        (token.replace(".", "-"), sidegate.DecodeError),
        (log_in(stack)["refresh_token"], sidegate.DecodeError),
    ]:
        with pytest.raises(sidegate.InvalidTokenError) as denied:
            check(wrong)
        assert type(denied.value) is expected


def test_cached_tokens_are_checked_in_process_and_revoked(stack: Stack) -> None:
    client, token = verifier(stack), log_in(stack)["access_token"]
    eventually("the segment is attached", lambda: client.attached)
    assert client.try_cached(token) is None
    assert client.check(token).sub == "1"
    seen = client.try_cached(token)
    assert seen is not None
    assert seen == client.check(token)
    headers = [(b"host", b"x"), (b"authorization", b"Bearer " + token.encode())]
    assert client.try_headers(headers) == seen
    assert client.try_headers(headers, list(seen.scopes)) == seen
    with pytest.raises(sidegate.InsufficientScopeError):
        client.try_headers(headers, [*seen.scopes, "another"])
    log_out(stack, token)
    eventually("the revocation is in memory", lambda: client.try_cached(token) is None)
    assert client.try_headers(headers) is None
    in_header = lambda token: client.check_authorization(f"Bearer {token}")  # noqa: E731
    for check in (client.check, in_header, lambda token: asyncio.run(client.check_async(token))):
        with pytest.raises(sidegate.RevokedTokenError):
            check(token)


def test_revocation_under_load_with_four_workers(stack: Stack) -> None:
    token, stays = log_in(stack)["access_token"], log_in(stack)["access_token"]
    answers: list[tuple[float, int, str]] = []
    stop = threading.Event()

    def hammer() -> None:
        with httpx.Client(timeout=60) as client:
            while not stop.is_set():
                started = time.monotonic()
                answer = client.get(f"{stack.app_url}/me", headers=bearer(token))
                answers.append((started, answer.status_code, answer.json().get("code", "")))
                assert client.get(f"{stack.app_url}/me", headers=bearer(stays)).status_code == 200

    with ThreadPoolExecutor(8) as pool:
        hammers = [pool.submit(hammer) for _ in range(8)]
        eventually("requests run", lambda: len(answers) > 100)
        log_out(stack, token)
        logged_out = time.monotonic()
        eventually("requests are refused", lambda: sum(status == 401 for _, status, _ in list(answers)) > 200)
        stop.set()
        for one in hammers:
            one.result()
    assert {(status, code) for _, status, code in answers} == {(200, ""), (401, "token_revoked")}
    first_refusal = min(started for started, status, _ in answers if status == 401)
    last_yes = max(started for started, status, _ in answers if status == 200)
    # Generous: it takes milliseconds. What matters is that no worker continues for long.
    assert last_yes - min(first_refusal, logged_out) < TIMEOUT_SECONDS / 4


def test_application_can_revoke_a_user(stack: Stack) -> None:
    bob = log_in(stack, "bob@example.org")["access_token"]
    assert get(stack, "/me", bob).status_code == 200
    stack.revoke({"user": "2"})
    eventually("all of Bob's tokens are refused", lambda: get(stack, "/me", bob).status_code == 401)
    refused(get(stack, "/me", bob), 401, "token_revoked")
    assert get(stack, "/me", log_in(stack, "bob@example.org")["access_token"]).status_code == 200


def test_killed_daemon_means_503_until_it_is_back(stack: Stack) -> None:
    token, gone = log_in(stack)["access_token"], log_in(stack)["access_token"]
    assert get(stack, "/me", token).status_code == 200
    stack.end("verifier", signal.SIGKILL)
    try:
        eventually("every worker notices", lambda: all(get(stack, "/me", token).status_code == 503 for _ in range(20)))
        refused(get(stack, "/me", token), 503, "temporarily_unavailable")
        assert get(stack, "/").status_code == 200
        log_out(stack, gone)
    finally:
        stack.start_verifier()
    eventually("every worker is back", lambda: all(get(stack, "/me", token).status_code == 200 for _ in range(20)))
    refused(get(stack, "/me", gone), 401, "token_revoked")
    log_out(stack, token)
    eventually("revocation works again", lambda: all(get(stack, "/me", token).status_code == 401 for _ in range(20)))


def test_daemon_without_its_feed_is_stale(tmp_path: Path) -> None:
    stack = Stack(tmp_path, bcrypt_cost=4)
    stack.verifier_settings["MAX_STALENESS"] = "1s"
    try:
        stack.start()
        token = log_in(stack)["access_token"]
        assert get(stack, "/me", token).status_code == 200
        # The issuer serves the embedded store's feed.
        stack.end("issuer", signal.SIGKILL)
        eventually("the daemon calls itself stale", lambda: get(stack, "/me", token).status_code == 503)
        refused(get(stack, "/me", token), 503, "stale")
        assert get(stack, "/").status_code == 200
        stack.start_issuer()
        eventually("the daemon has caught up", lambda: get(stack, "/me", token).status_code == 200)
    finally:
        stack.stop()


def test_children_forked_after_connecting_see_revocations(stack: Stack) -> None:
    client, token, stays = verifier(stack), log_in(stack)["access_token"], log_in(stack)["access_token"]
    eventually("the segment is attached", lambda: client.attached)
    assert client.check(token).sub == "1"
    children = []
    for _ in range(4):
        reads, writes = os.pipe()
        pid = os.fork()
        if pid == 0:
            os._exit(0 if _child(client, token, stays, writes) else 1)
        os.close(writes)
        children.append((pid, reads))
    for _, reads in children:
        assert os.read(reads, 1) == b"+"
    log_out(stack, token)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, _ in children]
    assert statuses == [0, 0, 0, 0]
    assert client.check(stays).sub == "1"


def _child(client: sidegate.Verifier, token: str, stays: str, tell: int) -> bool:
    """In a child process: true if the token was good, then revoked, and the other stayed good."""
    ok = client.check(token).sub == "1" and asyncio.run(client.check_async(stays)).sub == "1"
    os.write(tell, b"+" if ok else b"-")
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        try:
            client.check(token)
        except sidegate.RevokedTokenError:
            return ok and client.check(stays).sub == "1"
    return False


def test_program_logs_in_refreshes_and_logs_out(stack: Stack) -> None:
    with httpx.Client(auth=SidegateAuth(stack.issuer_url, EMAIL, PASSWORD), timeout=60) as client:
        auth = client.auth
        assert isinstance(auth, SidegateAuth)
        assert client.get(f"{stack.app_url}/me").json()["email"] == EMAIL
        before = auth.tokens
        assert before is not None
        auth._tokens = replace(before, expires_at=0.0)
        refreshes = issuer_counted(stack, "refreshes")
        with ThreadPoolExecutor(64) as pool:
            answers = list(pool.map(lambda _: client.get(f"{stack.app_url}/me").status_code, range(64)))
        assert answers == [200] * 64
        assert issuer_counted(stack, "refreshes") == refreshes + 1
        after = auth.tokens
        assert after is not None
        assert after.access_token != before.access_token
        auth.logout(client)
        eventually("the logout is known", lambda: get(stack, "/me", after.access_token).status_code == 401)
        refused(get(stack, "/me", after.access_token), 401, "token_revoked")
        # The token that the refresh replaced belongs to the same session.
        refused(get(stack, "/me", before.access_token), 401, "token_revoked")
        # The password still opens a new session.
        assert client.get(f"{stack.app_url}/me").status_code == 200


def test_async_program_survives_a_revocation(stack: Stack) -> None:
    async def main() -> None:
        auth = SidegateAuth(stack.issuer_url, EMAIL, PASSWORD)
        async with httpx.AsyncClient(auth=auth, timeout=60) as client:
            answers = await asyncio.gather(*(client.get(f"{stack.app_url}/me") for _ in range(64)))
            assert {answer.status_code for answer in answers} == {200}
            first = auth.tokens
            assert first is not None
            stack.revoke({"session": answers[0].json()["session"]})
            while auth.tokens == first:
                assert (await client.get(f"{stack.app_url}/me")).status_code == 200
            await auth.logout_async(client)

    asyncio.run(main())
    with pytest.raises(LoginRequiredError), httpx.Client(auth=SidegateAuth(stack.issuer_url, EMAIL, "wrong")) as client:
        client.get(f"{stack.app_url}/me")


def test_one_command_starts_and_stops_everything(tmp_path: Path) -> None:
    start = Path(__file__).parents[1] / "examples/fastapi_app/start"
    app, issuer = free_port(), free_port()
    command = [sys.executable, str(start), "--port", str(app), "--issuer-port", str(issuer), "--data", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            shown = "".join(process.stdout.readline() for _ in range(4))
            assert f"http://127.0.0.1:{app}/docs" in shown
            assert httpx.get(f"http://127.0.0.1:{app}/docs").status_code == 200
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()  # leaving the block waits for it
    assert not answers(f"http://127.0.0.1:{app}")
    assert not answers(f"http://127.0.0.1:{issuer}")
