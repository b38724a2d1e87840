"""The verifier client: `Verifier().check(token)`, and the same for the headers of a request."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Literal, Protocol

from sidegate._native import Client, Token, bearer_token
from sidegate.errors import InsufficientScopeError, SidegateError, VerifierUnavailableError, refusal
from sidegate.watch import Stoppable, Watch

# The daemon answers in tens of microseconds. More threads than this do not help, and a longer queue only makes
# all requests late while the daemon is stuck.
_THREADS_MAX = 16
_WAITING_MAX = 1024


class TokenVerifier(Protocol):
    """The interface that the integrations use: the real verifier, or that of `sidegate.testing`."""

    def check(self, token: str, /) -> Token:
        """Returns the token if it is good now; raises an exception of `sidegate.errors` otherwise."""

    async def check_async(self, token: str, /) -> Token:
        """As `check`, but never blocks the event loop."""

    def watch_token(self, token: Token, on_end: Callable[[SidegateError], object], /) -> Stoppable:
        """Calls `on_end` with the reason, in any thread, once the token has ended."""


class Verifier(Client):
    """A connection to the Sidegate daemon of this host. One per process is enough; threads and forks may share it.

    `socket` is the daemon's `VERIFIER_SOCKET`, `attach` its `ATTACH_SOCKET`; both default to the environment variable
    of that name, then to the daemon's default. `attach=False` disables shared memory: every check asks the
    daemon. `timeout` limits one request to it, in seconds; `tokens` is how many tokens are
    cached. `watch_grace` is how long, in seconds, a watched token is kept that cannot be checked; `None` for ever.

    A missing daemon is not an error here: checks raise `VerifierUnavailableError` until it runs.
    """

    def __new__(
        cls,
        socket: str | os.PathLike[str] | None = None,
        attach: str | os.PathLike[str] | Literal[False] | None = None,
        *,
        timeout: float = 2.0,
        tokens: int = 32_768,
        watch_grace: float | None = 30.0,
    ) -> Verifier:
        return super().__new__(cls, refusal, socket, None if attach == "" else attach, timeout, tokens, watch_grace)

    def __init__(
        self,
        socket: str | os.PathLike[str] | None = None,
        attach: str | os.PathLike[str] | Literal[False] | None = None,
        *,
        timeout: float = 2.0,
        tokens: int = 32_768,
        watch_grace: float | None = 30.0,
    ) -> None:
        self._askers: _Askers | None = None

    async def check_async(self, token: str, /) -> Token:
        """`check` for async code: at once from memory if possible, otherwise on a thread that waits for the daemon."""
        answer = self.try_cached(token)
        if answer is not None:
            return answer
        askers = self._askers
        if askers is None or askers.pid != os.getpid():
            # A forked child has none of its parent's threads.
            askers = self._askers = _Askers()
        return await askers.ask(self, token)

    def watch(self, token: Token) -> Watch:
        """`async with verifier.watch(token):` cancels the block when the token ends, and raises the reason: for what
        stays open after its check. A revocation is noticed within 20 ms of its arrival on this host, without
        requests to the daemon while shared memory calls the token good. Where shared memory cannot, because it is not
        attached or the token is another issuer's, the daemon is asked every 100 ms.
        """
        return Watch(self.watch_token, token)


class _Askers:
    """The threads of a process that wait for the daemon, so that event loops need not."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._pool = ThreadPoolExecutor(_THREADS_MAX, thread_name_prefix="sidegate")
        self._lock = threading.Lock()
        self._waiting = 0

    async def ask(self, client: Client, token: str) -> Token:
        with self._lock:
            if self._waiting >= _WAITING_MAX:
                raise VerifierUnavailableError("too many checks wait for the verifier")
            self._waiting += 1
        asked = self._pool.submit(client.check, token)
        # Counted until the thread has finished, even if the request was cancelled before.
        asked.add_done_callback(self._done)
        return await asyncio.wrap_future(asked)

    def _done(self, _asked: Future[Token]) -> None:
        with self._lock:
            self._waiting -= 1


async def check_headers(
    verifier: TokenVerifier, headers: Iterable[tuple[bytes, bytes]], scopes: Iterable[str] = ()
) -> Token:
    """Returns the token in the headers of an ASGI request if it is good now and has these scopes.

    `Verifier.try_headers` does the same for a known token, in one call.
    """
    values = [value.decode("latin-1") for name, value in headers if name.lower() == b"authorization"]
    return require_scopes(await verifier.check_async(bearer_token(values)), scopes)


def require_scopes(token: Token, scopes: Iterable[str]) -> Token:
    """Returns the token if it has all of these scopes; raises `InsufficientScopeError` otherwise."""
    required = list(scopes)
    if required and not set(required) <= set(token.scopes):
        raise InsufficientScopeError(required=" ".join(required))
    return token
