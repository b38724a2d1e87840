"""Processes that fork after attaching, while the daemon is killed and its segment replaced under them."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sidegate
from conftest import eventually, log_in, log_out
from stack import TIMEOUT_SECONDS, Stack

# A dead daemon's segment stays valid for a second, by a clock that is at most a tick behind.
VALID_SECONDS = 1.05


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Stack]:
    """Issuer and verifier, without an application."""
    stack = Stack(tmp_path, bcrypt_cost=4)
    try:
        stack.make_users()
        stack.start_issuer()
        stack.start_verifier()
        yield stack
    finally:
        stack.stop()


def verifier(stack: Stack) -> sidegate.Verifier:
    where = stack.verifier_settings
    return sidegate.Verifier(where["VERIFIER_SOCKET"], where["ATTACH_SOCKET"])


@pytest.mark.parametrize("asleep", [False, True])
def test_parent_and_child_switch_to_a_new_segment(daemon: Stack, asleep: bool) -> None:
    token, stays = log_in(daemon)["access_token"], log_in(daemon)["access_token"]
    reads, writes = os.pipe()
    stop, stopping = os.pipe()
    parent = os.fork()
    if parent == 0:
        os.close(stopping)
        ended_well = False
        try:
            ended_well = _family(daemon, token, stays, writes, stop)
        finally:
            os._exit(0 if ended_well else 1)
    os.close(writes)
    os.close(stop)
    with os.fdopen(reads) as lines:
        family = [int(lines.readline()) for _ in range(2)]
        assert parent in family
        for pid in family:
            if asleep:
                os.kill(pid, signal.SIGSTOP)
        daemon.end("verifier", signal.SIGKILL)
        killed = time.monotonic()
        log_out(daemon, token)
        daemon.start_verifier()
        time.sleep(max(0.0, killed + VALID_SECONDS - time.monotonic()))
        for pid in family:
            os.kill(pid, signal.SIGCONT)
        os.close(stopping)
        seen = [json.loads(line) for line in lines]
    assert os.waitstatus_to_exitcode(os.waitpid(parent, 0)[1]) == 0
    assert len(seen) == 2
    for one in seen:
        assert one["last_good"] < killed + VALID_SECONDS, f"good {one['last_good'] - killed} s after the kill"
        assert one["attached_again"]


def _family(stack: Stack, token: str, stays: str, tell: int, stop: int) -> bool:
    """A process that attaches, caches both tokens and forks; true if its child succeeded."""
    client = verifier(stack)
    eventually("both are kept", lambda: all(client.check(one) and client.try_cached(one) for one in (token, stays)))
    child = os.fork()
    # Tokens that the parent cached are good in the child without a request.
    eventually("it is answered in process", lambda: client.try_cached(token) is not None)
    os.write(tell, f"{os.getpid()}\n".encode())
    ok = _checks(client, token, stays, tell, stop)
    if child == 0:
        os._exit(0 if ok else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 and ok


def _checks(client: sidegate.Verifier, token: str, stays: str, tell: int, stop: int) -> bool:
    """Checks a token until `stop` is set and the new segment is in use; true if it was rejected from some time on."""
    last_good, refused, attached_again = 0.0, False, False
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline and not (refused and attached_again and select.select([stop], [], [], 0)[0]):
        began = time.monotonic()
        try:
            client.check(token)
            last_good, refused = began, False
        except sidegate.RevokedTokenError:
            refused = True
        except sidegate.VerifierUnavailableError:
            pass
        # While the old segment was valid the token was good: an answer from memory now uses the new
        # one.
        if refused:
            attached_again = client.check(stays).sub == "1" and client.try_cached(stays) is not None
    os.write(tell, (json.dumps({"last_good": last_good, "attached_again": attached_again}) + "\n").encode())
    return refused
