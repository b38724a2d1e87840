"""For tests of applications: a verifier without a daemon, and its test tokens.

>>> verifier = TestVerifier()
>>> sidegate.fastapi.install(app, verifier)                                         # doctest: +SKIP
>>> headers = {"Authorization": f"Bearer {verifier.issue('42', scope='read')}"}
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from sidegate._native import Token, bearer_token
from sidegate.errors import (
    ExpiredSignatureError,
    InvalidTokenError,
    RevokedTokenError,
    SidegateError,
    VerifierUnavailableError,
)
from sidegate.verifier import require_scopes
from sidegate.watch import Watch


class TestVerifier:
    """Accepts the tokens that it issued, and no others. Not for production: its tokens have no signature."""

    # Keeps pytest from collecting the class as a test.
    __test__: ClassVar[bool] = False

    def __init__(self) -> None:
        self._claims: dict[str, dict[str, Any]] = {}
        self._revoked: set[tuple[str, str]] = set()
        self._watched: list[_Watched] = []
        self.available = True
        """Set it to false to simulate a daemon that cannot be reached."""

    def issue(self, sub: str, *, scope: str = "", sid: str | None = None, expires_in: int = 3600) -> str:
        """A good access token for this user; a negative `expires_in` makes an expired one."""
        now = int(time.time())
        claims: dict[str, Any] = {
            "iss": "sidegate",
            "aud": "sidegate",
            "sub": sub,
            "client_id": "sidegate",
            "iat": now,
            "exp": now + expires_in,
            "jti": secrets.token_urlsafe(16),
            "sid": sid or secrets.token_urlsafe(16),
        }
        if scope:
            claims["scope"] = scope
        token = ".".join(("e30", secrets.token_urlsafe(24), secrets.token_urlsafe(32)))
        self._claims[token] = claims
        return token

    def revoke(self, token: str) -> None:
        """Ends the session of a token, as a logout does: every token of that session is revoked."""
        self._revoked.add(("sid", self._claims[token]["sid"]))
        self._notify_watches()

    def revoke_user(self, sub: str) -> None:
        """Revokes all current tokens of the user."""
        self._revoked.update(("jti", claims["jti"]) for claims in self._claims.values() if claims["sub"] == sub)
        self._notify_watches()

    def check(self, token: str, /) -> Token:
        """As `sidegate.Verifier.check`."""
        if not self.available:
            raise VerifierUnavailableError
        claims = self._claims.get(token)
        if claims is None:
            raise InvalidTokenError
        if claims["exp"] <= time.time():
            raise ExpiredSignatureError
        if not self._revoked.isdisjoint({("sid", claims["sid"]), ("jti", claims["jti"])}):
            raise RevokedTokenError
        return Token.from_claims(claims)

    def check_authorization(
        self, authorization: str | Iterable[str] | None, scopes: Iterable[str] | None = None, /
    ) -> Token:
        """As `sidegate.Verifier.check_authorization`."""
        return require_scopes(self.check(bearer_token(authorization)), scopes or ())

    async def check_async(self, token: str, /) -> Token:
        """As `sidegate.Verifier.check_async`."""
        return self.check(token)

    def watch_token(self, token: Token, on_end: Callable[[SidegateError], object], /) -> _Watched:
        """As `sidegate.Verifier.watch_token`, for `revoke` and `revoke_user`; called in their thread."""
        watched = _Watched(token, on_end)
        self._watched.append(watched)
        self._notify_watches()
        return watched

    def watch(self, token: Token) -> Watch:
        """As `sidegate.Verifier.watch`, for `revoke` and `revoke_user`."""
        return Watch(self.watch_token, token)

    def _notify_watches(self) -> None:
        for watched in self._watched:
            if not self._revoked.isdisjoint({("sid", watched.token.sid), ("jti", watched.token.jti)}):
                watched.notify()
        self._watched = [watched for watched in self._watched if watched.on_end is not None]


class _Watched:
    """A watched token, until it has ended or is stopped."""

    def __init__(self, token: Token, on_end: Callable[[SidegateError], object]) -> None:
        self.token = token
        self.on_end: Callable[[SidegateError], object] | None = on_end

    def notify(self) -> None:
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end(RevokedTokenError())

    def stop(self) -> None:
        self.on_end = None
