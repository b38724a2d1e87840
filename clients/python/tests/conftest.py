"""The example stack with real programs, shared by the tests that need no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from stack import PASSWORD, TIMEOUT_SECONDS, Stack

WORKERS = 4


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    stack = Stack(Path(tmp_path_factory.mktemp("stack")), bcrypt_cost=4)
    try:
        stack.start(WORKERS)
        yield stack
    finally:
        stack.stop()


def log_in(stack: Stack, email: str = "alice@example.org") -> dict[str, str]:
    """The response of a login."""
    answer = httpx.post(f"{stack.issuer_url}/auth/login", json={"email": email, "password": PASSWORD}, timeout=60)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, str] = answer.json()
    return tokens


def log_out(stack: Stack, access_token: str) -> None:
    answer = httpx.post(f"{stack.issuer_url}/auth/logout", headers=bearer(access_token), timeout=60)
    assert answer.status_code == 204, answer.text


def bearer(access_token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {access_token}"}


def eventually(what: str, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.01)


def answers(url: str) -> bool:
    try:
        httpx.get(url)
    except httpx.TransportError:
        return False
    return True
