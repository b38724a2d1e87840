"""The verifier over the socket alone: the result of each response, and that no caller waits needlessly."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import sidegate
from fake_daemon import Answer, FakeDaemon, good, problem

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MiJ9.c2lnbmF0dXJl"

Start = Callable[[Callable[[str], Answer]], sidegate.Verifier]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    daemons: list[FakeDaemon] = []

    def start(answer: Callable[[str], Answer]) -> sidegate.Verifier:
        daemons.append(FakeDaemon(tmp_path / "verifier.sock", answer))
        return sidegate.Verifier(tmp_path / "verifier.sock", attach=False)

    yield start
    for daemon in daemons:
        daemon.close()


def test_unreachable_daemon_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="sidegate")
    socket = tmp_path / "verifier.sock"
    verifier = sidegate.Verifier(socket, attach=False)
    for _ in range(3):
        with pytest.raises(sidegate.VerifierUnavailableError):
            verifier.check(TOKEN)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    for part in (str(socket), "VERIFIER_SOCKET", "os error 2"):
        assert part in caplog.text
    daemon = FakeDaemon(socket, lambda _: good())
    for _ in range(3):
        verifier.check(TOKEN)
    daemon.close()
    assert [record.getMessage() for record in caplog.records[1:]] == ["the verifier answers again"]


def test_good_token_gives_access_to_its_claims(start: Start) -> None:
    token = start(lambda _: good(scope="read write", aud=["a", "b"])).check(TOKEN)
    assert (token.sub, token.sid, token.jti, token.client_id, token.iss) == (
        "42",
        "the-sid",
        "the-jti",
        "sidegate",
        "sidegate",
    )
    assert token.issuer == "home"
    assert token.aud == ["a", "b"]
    assert token.exp - token.iat == 600
    assert (token.scope, token.scopes) == ("read write", ("read", "write"))
    assert isinstance(token, Mapping)
    assert token["sub"] == "42"
    assert "scope" in token
    assert "nbf" not in token
    assert token.get("nbf") is None
    assert token.get("nbf", 7) == 7
    assert len(token) == len(dict(token)) == len(list(token.items())) == len(list(token.values())) == 9
    assert set(token) == set(token.keys())
    assert token == dict(token)
    assert token == sidegate.Token.from_claims(dict(token))
    assert hash(token) == hash(sidegate.Token.from_claims(dict(token)))
    with pytest.raises(KeyError):
        token["nbf"]
    with pytest.raises(AttributeError):
        token.sub = "43"  # type: ignore[misc]
    assert TOKEN not in repr(token)
    assert "'sub': '42'" in repr(token)


def test_token_without_scope_has_no_scopes(start: Start) -> None:
    token = start(lambda _: good()).check(TOKEN)
    assert (token.scope, token.scopes) == ("", ())
    assert sidegate.require_scopes(token, []) is token
    with pytest.raises(sidegate.InsufficientScopeError) as denied:
        sidegate.require_scopes(token, ["read", "write"])
    assert denied.value.required == "read write"


def test_header_and_scopes_are_checked_in_one_call(start: Start) -> None:
    verifier = start(lambda _: good(scope="read"))
    assert verifier.check_authorization(f"Bearer {TOKEN}").sub == "42"
    assert verifier.check_authorization([f"bearer  {TOKEN}"], ["read"]).scope == "read"
    with pytest.raises(sidegate.InsufficientScopeError) as denied:
        verifier.check_authorization(f"Bearer {TOKEN}", ["read", "write"])
    assert denied.value.required == "read write"
    nothing: list[str | list[str] | None] = [None, "", [], "Basic YTpi"]
    for missing in nothing:
        with pytest.raises(sidegate.MissingTokenError):
            verifier.check_authorization(missing)
    for invalid in ("Bearer a b", ["Bearer a", "Bearer a"], "Bearer \ud800", "Bearer é"):
        with pytest.raises(sidegate.InvalidTokenError):
            verifier.check_authorization(invalid)
    with pytest.raises(TypeError):
        verifier.check_authorization([b"Bearer a"])  # type: ignore[list-item]


def test_headers_of_a_request_without_one_token_are_refused_without_the_daemon(start: Start) -> None:
    verifier = start(lambda _: good())
    token = f"Bearer {TOKEN}".encode()
    assert verifier.try_headers([(b"host", b"x"), (b"authorization", token)]) is None, "only the daemon can answer"
    with pytest.raises(sidegate.MissingTokenError):
        verifier.try_headers([(b"host", b"x")])
    for headers in ([(b"authorization", token)] * 2, [(b"authorization", token), (b"Authorization", b"Basic x")]):
        with pytest.raises(sidegate.InvalidTokenError):
            verifier.try_headers(headers)
    with pytest.raises(sidegate.InvalidTokenError):
        verifier.try_headers([[b"authorization", b"Bearer \xff"]])


def test_token_needs_all_claims() -> None:
    with pytest.raises(TypeError, match="iss"):
        sidegate.Token.from_claims({"sub": "42"})


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (problem(401, "token_invalid"), sidegate.InvalidTokenError),
        (problem(401, "token_expired"), sidegate.ExpiredSignatureError),
        (problem(401, "token_revoked"), sidegate.RevokedTokenError),
        (problem(401, "token_missing"), sidegate.MissingTokenError),
        (problem(401, "token_of_the_future"), sidegate.InvalidTokenError),
        (problem(403, "insufficient_scope"), sidegate.InsufficientScopeError),
        (problem(503, "stale"), sidegate.StaleError),
        (problem(503, "temporarily_unavailable"), sidegate.VerifierUnavailableError),
        (problem(500, "internal"), sidegate.VerifierUnavailableError),
        (problem(404, "not_found"), sidegate.VerifierUnavailableError),
        ((200, {}), sidegate.VerifierUnavailableError),
        ((200, {"claims": {"sub": "42"}, "segment": "0", "epoch": 1}), sidegate.VerifierUnavailableError),
        ((302, {}), sidegate.VerifierUnavailableError),
    ],
)
def test_every_other_response_is_an_exception(start: Start, answer: Answer, expected: type[Exception]) -> None:
    verifier = start(lambda _: answer)
    with pytest.raises(expected) as denied:
        verifier.check(TOKEN)
    assert type(denied.value) is expected
    assert TOKEN not in str(denied.value)


def test_exceptions_extend_pyjwts() -> None:
    assert issubclass(sidegate.InvalidSignatureError, sidegate.DecodeError)
    for error in (sidegate.DecodeError, sidegate.ExpiredSignatureError, sidegate.RevokedTokenError):
        assert issubclass(error, sidegate.InvalidTokenError)
    others: list[type[sidegate.SidegateError]] = [sidegate.MissingTokenError, sidegate.InsufficientScopeError]
    for other in [*others, sidegate.VerifierUnavailableError]:
        assert not issubclass(other, sidegate.InvalidTokenError)


@pytest.mark.parametrize("junk", ["abc", "a b c d e f g h i j", "é" * 40, "\ud800" * 40, "x" * 9000, TOKEN + "\n"])
def test_malformed_token_causes_no_request(start: Start, junk: str) -> None:
    asked: list[str] = []
    verifier = start(lambda token: asked.append(token) or good())  # type: ignore[func-returns-value]
    for check in (verifier.check, verifier.try_cached):
        with pytest.raises(sidegate.InvalidTokenError):
            check(junk)
        with pytest.raises(sidegate.MissingTokenError):
            check("")
    assert asked == []


def test_only_text_is_a_token(start: Start) -> None:
    verifier = start(lambda _: good())
    for wrong in (None, b"bytes", 42):
        with pytest.raises(TypeError):
            verifier.check(wrong)  # type: ignore[arg-type]


def test_settings_are_checked(tmp_path: Path) -> None:
    for timeout in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="timeout"):
            sidegate.Verifier(tmp_path / "s", attach=False, timeout=timeout)


def test_missing_daemon_is_unavailable_until_it_starts(tmp_path: Path) -> None:
    verifier = sidegate.Verifier(tmp_path / "verifier.sock", attach=False)
    with pytest.raises(sidegate.VerifierUnavailableError):
        verifier.check(TOKEN)
    with pytest.raises(sidegate.VerifierUnavailableError):
        asyncio.run(verifier.check_async(TOKEN))
    daemon = FakeDaemon(tmp_path / "verifier.sock", lambda _: good())
    assert verifier.check(TOKEN).sub == "42"
    daemon.close()


def test_sockets_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERIFIER_SOCKET", str(tmp_path / "v.sock"))
    monkeypatch.setenv("ATTACH_SOCKET", str(tmp_path / "a.sock"))
    daemon = FakeDaemon(tmp_path / "v.sock", lambda _: good())
    verifier = sidegate.Verifier()
    assert verifier.check(TOKEN).sub == "42"
    assert not verifier.attached
    daemon.close()


def test_waiting_for_the_daemon_blocks_no_other_thread(start: Start) -> None:
    release, waiting = threading.Event(), threading.Event()

    def answer(token: str) -> Answer:
        waiting.set()
        assert release.wait(20)
        return good()

    verifier = start(answer)
    answers: list[sidegate.Token] = []
    asker = threading.Thread(target=lambda: answers.append(verifier.check(TOKEN)))
    asker.start()
    # This thread and the fake daemon's can only run because the asking thread released the GIL.
    assert waiting.wait(20)
    assert answers == []
    release.set()
    asker.join(20)
    assert [token.sub for token in answers] == ["42"]


def test_event_loop_runs_while_the_daemon_is_asked(start: Start) -> None:
    release = threading.Event()

    def answer(token: str) -> Answer:
        assert release.wait(20)
        return good()

    verifier = start(answer)

    async def main() -> None:
        checks = [asyncio.ensure_future(verifier.check_async(TOKEN)) for _ in range(50)]
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not any(check.done() for check in checks)
        checks.pop().cancel()
        release.set()
        assert {token.sub for token in await asyncio.gather(*checks)} == {"42"}

    asyncio.run(main())
    # Another loop, the same verifier.
    assert asyncio.run(verifier.check_async(TOKEN)).sub == "42"


def test_stuck_daemon_makes_a_bounded_queue(tmp_path: Path) -> None:
    release = threading.Event()
    daemon = FakeDaemon(tmp_path / "verifier.sock", lambda _: good() if release.wait(20) else problem(500, "internal"))
    verifier = sidegate.Verifier(tmp_path / "verifier.sock", attach=False, timeout=20)

    async def main() -> None:
        checks = [asyncio.ensure_future(verifier.check_async(TOKEN)) for _ in range(1500)]
        await asyncio.sleep(0)
        refused = [check for check in checks if check.done()]
        assert len(refused) == 1500 - 1024
        assert all(isinstance(check.exception(), sidegate.VerifierUnavailableError) for check in refused)
        release.set()
        answers = await asyncio.gather(*checks, return_exceptions=True)
        assert sum(isinstance(answer, sidegate.Token) for answer in answers) == 1024

    asyncio.run(main())
    daemon.close()


def test_hung_daemon_is_unavailable_after_the_timeout(start: Start, tmp_path: Path) -> None:
    release = threading.Event()
    start(lambda _: good() if release.wait(20) else problem(500, "internal"))
    verifier = sidegate.Verifier(tmp_path / "verifier.sock", attach=False, timeout=0.05)
    with pytest.raises(sidegate.VerifierUnavailableError):
        verifier.check(TOKEN)
    release.set()


def test_threads_share_a_verifier(start: Start) -> None:
    verifier = start(lambda token: good(jti=token[-8:]))
    wrong: list[str] = []

    def work(name: str) -> None:
        for at in range(50):
            token = f"{TOKEN}{name}{at:07}"
            if verifier.check(token).jti != token[-8:]:
                wrong.append(token)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_forked_children_have_their_own_connections(start: Start) -> None:
    verifier = start(lambda token: good(jti=token[-8:]))
    assert verifier.check(TOKEN + "00000000").jti == "00000000"
    assert asyncio.run(verifier.check_async(TOKEN + "00000001")).jti == "00000001"
    children = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            ok = all(verifier.check(f"{TOKEN}{child}{at:07}").jti == f"{child}{at:07}" for at in range(50))
            ok = ok and asyncio.run(verifier.check_async(TOKEN + "00000002")).jti == "00000002"
            os._exit(0 if ok else 1)
        children.append(pid)
    for at in range(200):
        assert verifier.check(f"{TOKEN}p{at:07}").jti == f"p{at:07}"
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0, 0, 0]
