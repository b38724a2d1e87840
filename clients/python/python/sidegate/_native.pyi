"""Types of the native half."""

import os
from collections.abc import Callable, Mapping
from typing import Any, final

from typing_extensions import Self

@final
class Token(Mapping[str, Any]):
    """A token that was good when it was checked. Reads like its claims: `token.sub`, `token["sub"]`, `dict(token)`."""

    @staticmethod
    def from_claims(claims: dict[str, Any]) -> Token:
        """A token made of claims, unchecked: for tests of applications."""
    @property
    def sub(self) -> str:
        """Who."""
    @property
    def sid(self) -> str:
        """The session that the token belongs to."""
    @property
    def jti(self) -> str:
        """Which token."""
    @property
    def client_id(self) -> str:
        """For which application it was issued."""
    @property
    def iss(self) -> str:
        """Who issued it."""
    @property
    def aud(self) -> str | list[str]:
        """For whom it is meant."""
    @property
    def iat(self) -> int:
        """When it was issued, in seconds since 1970."""
    @property
    def exp(self) -> int:
        """When its time is over, in seconds since 1970."""
    @property
    def scope(self) -> str:
        """`scope` as it stands in the token, empty if it has none."""
    @property
    def scopes(self) -> tuple[str, ...]:
        """`scope`, word by word."""
    def __getitem__(self, name: str, /) -> Any: ...
    def __iter__(self) -> Any: ...
    def __len__(self) -> int: ...

class Client:
    def __new__(
        cls,
        refuse: Callable[[str, str, str], BaseException],
        socket: str | os.PathLike[str] | None,
        attach: str | os.PathLike[str] | None,
        shared_memory: bool,
        timeout: float,
        tokens: int,
    ) -> Self: ...
    def check(self, token: str, /) -> Token:
        """The token, if it is good now; else one of the exceptions of `sidegate.errors`.

        Asks the daemon if it has to, with the GIL released.
        """
    def try_cached(self, token: str, /) -> Token | None:
        """The same without asking the daemon: `None` where only the daemon can answer. Never blocks."""
    @property
    def attached(self) -> bool:
        """Whether tokens seen before are answered in this process."""
