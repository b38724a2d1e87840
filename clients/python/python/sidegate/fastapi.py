"""Protected routes for FastAPI.

    app = FastAPI()
    install(app, issuer_url="http://127.0.0.1:8080")

    @app.get("/me")
    def me(user: Annotated[Token, Depends(require_user)]) -> str:
        return user.sub

`require_user`, `optional_user` and `require("read")` are dependencies; `Security(require_user, scopes=["read"])` is the
same as `Depends(require("read"))`. `install` turns errors into problem documents, and makes the Authorize button of the
docs page log in at the issuer.
"""

# No `from __future__ import annotations` here: FastAPI could not resolve the names in the annotations of `__call__`.
import os
import threading
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, Callable, Optional, TypeVar

from fastapi import FastAPI, HTTPException, Request, Response, Security
from fastapi.openapi.models import OAuthFlowPassword, OAuthFlows
from fastapi.security import OAuth2, SecurityScopes
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketState

from sidegate._native import Client, Token
from sidegate.errors import PROBLEM_MEDIA_TYPE, MissingTokenError, SidegateError
from sidegate.starlette import WEBSOCKET_TOKEN_ENDED, problem_response
from sidegate.verifier import TokenVerifier, Verifier, check_headers
from sidegate.watch import Watch
from sidegate.watch import until_ended as _until_ended

__all__ = [
    "RequireUser",
    "TokenRefused",
    "install",
    "optional_user",
    "require",
    "require_user",
    "until_ended",
    "watch",
]

T = TypeVar("T")

# The name of the security scheme in OpenAPI documents.
_SCHEME = "Sidegate"
# The key of a request's scope for the application that `install` was called for.
_OWNER = "sidegate.app"


def _token_urls(issuer_url: str) -> dict[str, str]:
    base = issuer_url.rstrip("/")
    return {"tokenUrl": f"{base}/auth/login", "refreshUrl": f"{base}/auth/refresh"}


class TokenRefused(HTTPException):
    """Raised by a protected route: FastAPI's own handler sends status and headers, ours a problem document."""

    def __init__(self, error: SidegateError) -> None:
        super().__init__(error.status, error.detail, error.headers)
        self.error = error


class RequireUser(OAuth2):
    """The dependency: returns the request's token, or raises."""

    def __init__(self) -> None:
        issuer_url = os.environ.get("ISSUER_URL") or "http://127.0.0.1:8080"
        password = OAuthFlowPassword(**_token_urls(issuer_url), scopes={})
        super().__init__(
            flows=OAuthFlows(password=password),
            scheme_name=_SCHEME,
            description="Email and password of an account. Client id and secret stay empty.",
        )

    async def __call__(self, request: HTTPConnection, scopes: SecurityScopes) -> Token:  # type: ignore[override]
        """Checks the request's token."""
        headers = request.scope["headers"]
        try:
            # The first request connects, which may take a moment.
            verifier = _verifier(request) or await _verifier_or_default(request)
            # One call for a token seen before, and no coroutine of its own.
            good = verifier.try_headers(headers, scopes.scopes) if isinstance(verifier, Client) else None
            return good if good is not None else await check_headers(verifier, headers, scopes.scopes)
        except SidegateError as error:
            _answer_in_mounted_app(request)
            raise TokenRefused(error) from error


class _OptionalUser(RequireUser):
    async def __call__(  # type: ignore[override]
        self, request: HTTPConnection, scopes: SecurityScopes
    ) -> Optional[Token]:
        try:
            return await super().__call__(request, scopes)
        except TokenRefused as refused:
            if isinstance(refused.error, MissingTokenError):
                return None
            raise


require_user = RequireUser()
"""The request's token. Rejects requests without a good one."""

optional_user = _OptionalUser()
"""The request's token, or `None` if it has none. A bad token is rejected, so that the client refreshes it."""


def require(*scopes: str) -> Callable[..., Awaitable[Token]]:
    """A dependency that requires all of these scopes: `Depends(require("read", "write"))`."""

    async def required(token: Token = Security(require_user, scopes=scopes)) -> Token:  # noqa: B008 - how FastAPI works
        return token

    return required


@asynccontextmanager
async def watch(socket: WebSocket, token: Token) -> AsyncIterator[None]:
    """`async with watch(socket, user):` ends the block when the token does, and closes the WebSocket with code 4401."""
    verifier = await _verifier_or_default(socket)
    watched = Watch(verifier.watch_token, token, quiet=True)
    async with watched:
        yield
    if watched.error is not None and socket.application_state is WebSocketState.CONNECTED:
        await socket.close(WEBSOCKET_TOKEN_ENDED, watched.error.code)


async def until_ended(request: Request, token: Token, events: AsyncIterator[T]) -> AsyncIterator[T]:
    """The same events, until the token ends: `StreamingResponse(until_ended(request, user, events()))`."""
    verifier = await _verifier_or_default(request)
    async for event in _until_ended(verifier.watch_token, token, events):
        yield event


def install(app: FastAPI, verifier: Optional[TokenVerifier] = None, *, issuer_url: Optional[str] = None) -> None:
    """Makes an application use this verifier, send errors as problem documents, and document both.

    Mounted applications do the same, with the same verifier, unless `install` is called for them too.
    `verifier` defaults to `sidegate.Verifier()`, created when first needed. `issuer_url` is where browsers reach the
    issuer, `ISSUER_URL` by default; its `CORS_ORIGINS` must name the docs page's origin. Call again to change either.
    """
    if verifier is not None:
        app.state.sidegate_verifier = verifier
    if issuer_url is not None:
        app.state.sidegate_issuer_url = issuer_url
    app.add_exception_handler(TokenRefused, _answer_problem)
    if app.middleware_stack is None and not getattr(app.state, "sidegate_marked", False):
        app.state.sidegate_marked = True
        app.add_middleware(_Marker, owner=app)
    if not getattr(app.state, "sidegate_documented", False):
        app.state.sidegate_documented = True
        plain = app.openapi
        app.openapi = lambda: _document(plain(), getattr(app.state, "sidegate_issuer_url", None))  # type: ignore[method-assign]
    app.openapi_schema = None


class _Marker:
    """Records the outer application in the scope of mounted applications."""

    def __init__(self, app: ASGIApp, owner: FastAPI) -> None:
        self._app = app
        self._owner = owner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[_OWNER] = self._owner
        await self._app(scope, receive, send)


def _answer_in_mounted_app(request: HTTPConnection) -> None:
    """Adds the error handler to a mounted application, which does not inherit it."""
    handlers = request.scope.get("starlette.exception_handlers")
    if _OWNER in request.scope and handlers is not None:
        handlers[0].setdefault(TokenRefused, _answer_problem)


async def _answer_problem(_request: Request, refused: Exception) -> Response:
    if not isinstance(refused, TokenRefused):
        raise refused
    return problem_response(refused.error)


_default: Optional[Verifier] = None
_making_default = threading.Lock()


def _verifier(request: HTTPConnection) -> Optional[TokenVerifier]:
    """The verifier of the request's application, or of the one that it is mounted below, or the process' own."""
    scope = request.scope
    installed: Optional[TokenVerifier] = getattr(scope["app"].state, "sidegate_verifier", None)
    if installed is None and _OWNER in scope:
        installed = getattr(scope[_OWNER].state, "sidegate_verifier", None)
    return installed or _default


async def _verifier_or_default(request: HTTPConnection) -> TokenVerifier:
    installed = _verifier(request)
    return installed if installed is not None else await run_in_threadpool(_make_default)


def _make_default() -> Verifier:
    global _default
    with _making_default:
        if _default is None:
            _default = Verifier()
        return _default


def _document(document: dict[str, Any], issuer_url: Optional[str]) -> dict[str, Any]:
    """Adds the token URLs, the error responses and the logout to an OpenAPI document."""
    scheme = document.get("components", {}).get("securitySchemes", {}).get(_SCHEME)
    if scheme is None or "SidegateProblem" in document["components"].get("schemas", {}):
        # No protected routes, or FastAPI's cached document, which has them already.
        return document
    document["components"].setdefault("schemas", {})["SidegateProblem"] = _PROBLEM_SCHEMA
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    for operation in operations:
        needs = [need[_SCHEME] for need in operation.get("security", []) if _SCHEME in need]
        for status, description in _REFUSALS.items() if needs else ():
            if status != "403" or any(needs):
                operation["responses"].setdefault(status, _refusal(description))
    if issuer_url is not None:
        scheme["flows"]["password"].update(_token_urls(issuer_url))
        document["paths"]["/auth/logout"] = _logout(issuer_url.rstrip("/"))
    return document


def _refusal(description: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/SidegateProblem"}
    return {"description": description, "content": {PROBLEM_MEDIA_TYPE: {"schema": schema}}}


def _logout(issuer_url: str) -> dict[str, Any]:
    """The issuer's logout route, so that the docs page can log out."""
    return {
        "servers": [{"url": issuer_url, "description": "the issuer"}],
        "post": {
            "tags": ["issuer"],
            "summary": "Log out",
            "description": "Ends the session: its access tokens stop working everywhere.",
            "operationId": "sidegate_logout",
            "security": [{_SCHEME: []}],
            "responses": {"204": {"description": "Logged out"}, "401": _refusal(_REFUSALS["401"])},
        },
    }


_REFUSALS = {
    "401": "No valid access token was sent: `token_missing`, `token_invalid`, `token_expired` or `token_revoked`",
    "403": "The access token lacks a scope: `insufficient_scope`",
    "503": "The access token could not be checked: `temporarily_unavailable` or `stale`",
}

_PROBLEM_SCHEMA = {
    "type": "object",
    "title": "SidegateProblem",
    "description": "RFC 9457 problem details that are also an RFC 6749 error",
    "required": ["type", "title", "status", "detail", "error", "error_description", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "error": {"type": "string"},
        "error_description": {"type": "string"},
        "code": {"type": "string", "description": "stable"},
    },
}
