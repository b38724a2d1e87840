"""Types of the native module."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

from typing_extensions import Self

from sidegate.errors import SidegateError

@final
class Token(Mapping[str, Any]):
    """A token that was good when checked. Gives access to its claims: `token.sub`, `token["sub"]`, `dict(token)`."""

    @staticmethod
    def from_claims(claims: dict[str, Any]) -> Token:
        """An unchecked token with these claims, for tests of applications."""
    @property
    def sub(self) -> str:
        """The user."""
    @property
    def sid(self) -> str:
        """The session that the token belongs to."""
    @property
    def jti(self) -> str:
        """The token's identifier."""
    @property
    def client_id(self) -> str:
        """The application that the token was issued to."""
    @property
    def iss(self) -> str:
        """The issuer, as the token names it."""
    @property
    def issuer(self) -> str:
        """The issuer's name: `home`, or as in the daemon's `ISSUERS_FILE`."""
    @property
    def aud(self) -> str | list[str]:
        """The audience or audiences."""
    @property
    def iat(self) -> int:
        """The time of issue, in seconds since 1970."""
    @property
    def exp(self) -> int:
        """The time of expiry, in seconds since 1970."""
    @property
    def scope(self) -> str:
        """`scope` as in the token, empty if it has none."""
    @property
    def scopes(self) -> tuple[str, ...]:
        """`scope`, word by word."""
    def still_good(self) -> bool:
        """Whether shared memory calls the token good at this moment: no system call, never waits.

        `False` does not mean revoked: only the daemon can tell then, so check again. Without shared memory it is always
        false.
        """
    def __getitem__(self, name: str, /) -> Any: ...
    def __iter__(self) -> Any: ...
    def __len__(self) -> int: ...

class Client:
    def __new__(
        cls,
        refuse: Callable[[str, str, str], BaseException],
        socket: str | os.PathLike[str] | None,
        attach: str | os.PathLike[str] | bool | None,
        timeout: float,
        tokens: int,
        watch_grace: float | None,
    ) -> Self: ...
    def check(self, token: str, /) -> Token:
        """Returns the token if it is good now; raises an exception of `sidegate.errors` otherwise.

        Asks the daemon if needed, with the GIL released.
        """
    def try_cached(self, token: str, /) -> Token | None:
        """As `check`, without the daemon: returns `None` if only the daemon can answer. Never blocks."""
    def try_headers(self, headers: Iterable[Iterable[bytes]], scopes: Iterable[str] | None = None, /) -> Token | None:
        """Returns the token in the headers of an ASGI request if it is good now and has these scopes, or `None` if only
        the daemon can answer. Never blocks. Raises the exceptions of `sidegate.errors`.
        """
    def check_authorization(
        self, authorization: str | Iterable[str] | None, scopes: Iterable[str] | None = None, /
    ) -> Token:
        """Returns the token in the value of `Authorization` (or in all values that were sent) if it is good now and has
        these scopes; raises an exception of `sidegate.errors` otherwise. Asks the daemon if needed, with the GIL
        released.
        """
    def watch_token(self, token: Token, on_end: Callable[[SidegateError], object], /) -> WatchedToken:
        """Calls `on_end` with the reason once the token has ended, on a thread of the client: revoked, expired, or not
        checkable for longer than the grace. `Verifier.watch` is easier to use.
        """
    @property
    def attached(self) -> bool:
        """Whether known tokens are checked in this process."""

@final
class WatchedToken:
    """A watched token, as long as something refers to this."""

    def stop(self) -> None:
        """Stops watching. `on_end` may have been called meanwhile."""

def bearer_token(authorization: str | Iterable[str] | None, /) -> str:
    """Returns the token in the values of `Authorization`: one value, or all if the framework gives a list.

    Raises `MissingTokenError` if no bearer token was sent, `InvalidTokenError` if it is not exactly one.
    """
