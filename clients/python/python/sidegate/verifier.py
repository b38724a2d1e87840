"""The front door: `Verifier().check(token)`."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, Protocol

from sidegate._native import Client, Token
from sidegate.errors import InsufficientScopeError, VerifierUnavailableError, refusal

# The daemon answers in tens of microseconds. More threads than this do not help, and a longer queue only makes
# everybody late while the daemon is stuck.
_THREADS_MAX = 16
_WAITING_MAX = 1024


class TokenVerifier(Protocol):
    """What the integrations need of a verifier: the real one, or that of `sidegate.testing`."""

    def check(self, token: str, /) -> Token:
        """The token, if it is good now; else one of the exceptions of `sidegate.errors`."""

    async def check_async(self, token: str, /) -> Token:
        """The same, without ever blocking the event loop."""


class Verifier(Client):
    """A connection to the Sidegate daemon of this host. One for each process is enough; threads and forks may share it.

    `socket` is the daemon's `VERIFIER_SOCKET`, `attach` its `ATTACH_SOCKET`; both default to the environment variable
    of that name, then to where the daemon puts them. `attach=False` does without shared memory: every check asks the
    daemon. `timeout` is the longest that one question to it may take, in seconds; `tokens`, how many seen tokens are
    kept.

    A daemon that is not there is no error here: checks raise `VerifierUnavailableError` until it is.
    """

    def __new__(
        cls,
        socket: str | os.PathLike[str] | None = None,
        attach: str | os.PathLike[str] | Literal[False] | None = None,
        *,
        timeout: float = 2.0,
        tokens: int = 32_768,
    ) -> Verifier:
        return super().__new__(cls, refusal, socket, attach or None, attach is not False, timeout, tokens)

    def __init__(
        self,
        socket: str | os.PathLike[str] | None = None,
        attach: str | os.PathLike[str] | Literal[False] | None = None,
        *,
        timeout: float = 2.0,
        tokens: int = 32_768,
    ) -> None:
        self._askers: _Askers | None = None

    async def check_async(self, token: str, /) -> Token:
        """`check` for async code: at once where memory can answer, else on a thread that may wait for the daemon."""
        answer = self.try_cached(token)
        if answer is not None:
            return answer
        askers = self._askers
        if askers is None or askers.pid != os.getpid():
            # A forked child has none of its parent's threads.
            askers = self._askers = _Askers()
        return await askers.ask(self, token)


class _Askers:
    """The threads of one process that wait for the daemon on behalf of event loops."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._pool = ThreadPoolExecutor(_THREADS_MAX, thread_name_prefix="sidegate")
        self._lock = threading.Lock()
        self._waiting = 0

    async def ask(self, client: Client, token: str) -> Token:
        with self._lock:
            if self._waiting >= _WAITING_MAX:
                raise VerifierUnavailableError("too many checks wait for the daemon")
            self._waiting += 1
        asked = self._pool.submit(client.check, token)
        # Counted until the thread is done with it, even if the request was given up before.
        asked.add_done_callback(self._done)
        return await asyncio.wrap_future(asked)

    def _done(self, _asked: Future[Token]) -> None:
        with self._lock:
            self._waiting -= 1


def require_scopes(token: Token, scopes: Iterable[str]) -> Token:
    """The token again, if it has every one of these scopes; else `InsufficientScopeError`."""
    required = list(scopes)
    if required and not set(required) <= set(token.scopes):
        raise InsufficientScopeError(required=" ".join(required))
    return token
