"""Watches: a block of asynchronous code that ends when its token does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Protocol, TypeVar

from sidegate._native import Token
from sidegate.errors import SidegateError

T = TypeVar("T")


class Stoppable(Protocol):
    def stop(self) -> None:
        """Stops watching."""


WatchToken = Callable[[Token, Callable[[SidegateError], object]], Stoppable]


class Watch:
    """`async with verifier.watch(token):` cancels the block when the token ends, and raises the reason in its place.

    `quiet=True` raises nothing: the block just ends, and `error` has the reason.
    """

    def __init__(self, watch_token: WatchToken, token: Token, *, quiet: bool = False, at_once: bool = True) -> None:
        self.error: SidegateError | None = None
        """Why the token has ended; `None` while it has not."""
        self._watch_token = watch_token
        self._token = token
        self._quiet = quiet
        self._at_once = at_once
        self._watched: Stoppable | None = None
        self._inside = False

    async def __aenter__(self) -> Watch:
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        self._task, self._loop = task, asyncio.get_running_loop()
        self._cancels_before = _cancels(task)
        self._inside = True
        if self._at_once:
            self.begin()
        return self

    def begin(self) -> None:
        """Starts to watch, once, if that was not done on entry."""
        if self._watched is None:
            self._watched = self._watch_token(self._token, self._notify)

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._inside = False
        if self._watched is not None:
            self._watched.stop()
        if self.error is None:
            return False
        left = _uncancel(self._task)
        # Another cancellation, from outside, goes on; so does what the block raised itself.
        if kind is not asyncio.CancelledError or left > self._cancels_before:
            return False
        if self._quiet:
            return True
        raise self.error from raised

    def _notify(self, error: SidegateError) -> None:
        # A loop that is closed has no block any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end, error)

    def _end(self, error: SidegateError) -> None:
        if self._inside:
            self.error = error
            self._task.cancel()


# Python 3.11 counts the cancellations of a task; before, two of them look alike.
def _cancels(task: asyncio.Task[Any]) -> int:
    return task.cancelling() if hasattr(task, "cancelling") else 0


def _uncancel(task: asyncio.Task[Any]) -> int:
    return task.uncancel() if hasattr(task, "uncancel") else 0


async def until_ended(watch_token: WatchToken, token: Token, events: AsyncIterator[T]) -> AsyncIterator[T]:
    """The same events, until the token ends. The one being waited for is given up."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def end() -> None:
        if not ended.done():
            ended.set_result(None)

    def notify(_error: SidegateError) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(end)

    watched = watch_token(token, notify)
    coming: asyncio.Future[T] | None = None
    try:
        while not ended.done():
            coming = asyncio.ensure_future(_next(events))
            either: set[asyncio.Future[Any]] = {coming, ended}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                return
            try:
                event = coming.result()
            except _NoMoreError:
                return
            yield event
    finally:
        watched.stop()
        if coming is not None and not coming.done():
            coming.cancel()
            await asyncio.wait({coming})
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


class _NoMoreError(Exception):
    """`StopAsyncIteration`, which a future cannot carry."""


async def _next(events: AsyncIterator[T]) -> T:
    try:
        return await events.__anext__()
    except StopAsyncIteration:
        raise _NoMoreError from None
