"""Starlette middleware: only requests with a good token, or for public paths, reach the application.

    app = Starlette(routes=..., middleware=[Middleware(SidegateMiddleware, public=["/", "/static/*"])])

Behind it `request.user` is a `SidegateUser`, `request.auth.scopes` are the token's, and Starlette's own
`@requires("read")` works.
"""

from __future__ import annotations

from collections.abc import Iterable

from starlette.authentication import AuthCredentials, BaseUser, UnauthenticatedUser
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sidegate._native import Client, Token
from sidegate.errors import PROBLEM_MEDIA_TYPE, MissingTokenError, SidegateError
from sidegate.verifier import TokenVerifier, Verifier, check_headers
from sidegate.watch import Watch

# RFC 6455, section 7.4.1: the peer violates a policy.
_WEBSOCKET_POLICY = 1008
# Private use (RFC 6455, section 7.4.2): the token of an open WebSocket has ended.
WEBSOCKET_TOKEN_ENDED = 4401


class SidegateUser(BaseUser):
    """The user of a request in Starlette's form."""

    def __init__(self, token: Token) -> None:
        self.token = token

    @property
    def is_authenticated(self) -> bool:
        return True

    @property
    def display_name(self) -> str:
        return self.token.sub

    @property
    def identity(self) -> str:
        return self.token.sub


class _Credentials(AuthCredentials):
    """What the token permits. Made from the token when asked for, which most requests never do."""

    def __init__(self, token: Token) -> None:
        self._token = token

    @property
    def scopes(self) -> list[str]:  # type: ignore[override]
        return ["authenticated", *self._token.scopes]


class SidegateMiddleware:
    """Checks the token of every request, WebSockets included.

    `public` has the paths that need none: exact ones, or prefixes that end in `/*`. A bad token is rejected there
    too, so that the client refreshes it; without one the user is Starlette's `UnauthenticatedUser`. With `watch=True`
    WebSockets and responses in pieces are cut when their token ends: a WebSocket by close code 4401.
    """

    def __init__(
        self,
        app: ASGIApp,
        verifier: TokenVerifier | None = None,
        *,
        public: Iterable[str] = (),
        watch: bool = False,
    ) -> None:
        paths = list(public)
        self._app = app
        self._verifier = verifier if verifier is not None else Verifier()
        self._cached = self._verifier if isinstance(self._verifier, Client) else None
        self._watch = watch
        self._exact = frozenset(path for path in paths if not path.endswith("/*"))
        self._below = tuple(path[:-1] for path in paths if path.endswith("/*"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        good: Token | None = None
        try:
            # One call for a token seen before, and no coroutine of its own.
            if self._cached is not None:
                good = self._cached.try_headers(scope["headers"])
            if good is None:
                good = await check_headers(self._verifier, scope["headers"])
        except SidegateError as error:
            if not (isinstance(error, MissingTokenError) and self._is_public(scope["path"])):
                await _refuse(error, scope, receive, send)
                return
        if good is None:
            scope["auth"], scope["user"] = AuthCredentials(), UnauthenticatedUser()
        else:
            scope["auth"], scope["user"] = _Credentials(good), SidegateUser(good)
            if self._watch:
                await self._run_watched(good, scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _run_watched(self, token: Token, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application until the token ends, which is watched from when something stays open."""
        last = ""
        watch = Watch(self._verifier.watch_token, token, quiet=True, at_once=False)

        async def send_watched(message: Message) -> None:
            nonlocal last
            last = message["type"]
            if last == "websocket.accept" or (last == "http.response.body" and message.get("more_body")):
                watch.begin()
            elif last == "http.response.body":
                last = "complete"
            await send(message)

        async with watch:
            await self._app(scope, receive, send_watched)
        if watch.error is None:
            return
        if scope["type"] == "websocket" and last != "websocket.close":
            await send({"type": "websocket.close", "code": WEBSOCKET_TOKEN_ENDED, "reason": watch.error.code})
        elif last == "http.response.body":
            # Without it the server would call the response broken, and keep the client waiting.
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _is_public(self, path: str) -> bool:
        # A path that a router behind this might read differently is not public.
        plain = "//" not in path and not any(part in (".", "..") for part in path.split("/"))
        return plain and (path in self._exact or path.startswith(self._below))


async def _refuse(error: SidegateError, scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": _WEBSOCKET_POLICY, "reason": error.code})
    else:
        await problem_response(error)(scope, receive, send)


def problem_response(error: SidegateError) -> JSONResponse:
    """The HTTP response for the exception."""
    return JSONResponse(error.problem(), error.status, error.headers, PROBLEM_MEDIA_TYPE)
