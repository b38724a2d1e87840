"""An `httpx.Auth` for programs that call protected services: logs in, refreshes, retries, and logs out.

    auth = SidegateAuth("http://127.0.0.1:8080", "alice@example.org", "secret")
    with httpx.Client(auth=auth) as client:
        client.get("http://service/me")
        auth.logout(client)

One object may serve many clients, threads and tasks at once: however many requests find the token expired, only one
refreshes it. Works the same with `httpx.AsyncClient` (asyncio).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import httpx

__all__ = ["IssuerError", "LoginRequiredError", "SidegateAuth", "Tokens"]

# A token that expires sooner than this is refreshed before it is sent: the request itself takes
# time.
_MARGIN_SECONDS = 10.0


class IssuerError(Exception):
    """The issuer rejected a request: `status` and the stable `code` (docs/errors.md) say why."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"the issuer answered {status} {code}")
        self.status = status
        self.code = code


class LoginRequiredError(IssuerError):
    """There is no session and no password to log in with, or the password is wrong."""


@dataclass(frozen=True)
class Tokens:
    """The tokens of a session. Store them like a password."""

    access_token: str
    refresh_token: str
    expires_at: float
    """When the access token expires, in seconds since 1970 by this machine's clock."""

    def __repr__(self) -> str:
        return f"Tokens(expires_at={self.expires_at:.0f})"


class SidegateAuth(httpx.Auth):
    """Sends requests with an access token, and obtains and renews it.

    Pass an email and a password, or `tokens` from elsewhere, or both. `on_change` is called with the new `Tokens` after
    each login and refresh, and with `None` after a logout: store them there.

    A request that gets 401 is sent once more with a new token, unless its body is a stream that cannot be sent
    twice. Redirects to another origin do not carry the token (httpx removes it).
    """

    requires_response_body = False

    def __init__(
        self,
        issuer_url: str,
        email: str | None = None,
        password: str | None = None,
        *,
        tokens: Tokens | None = None,
        on_change: Callable[[Tokens | None], None] | None = None,
    ) -> None:
        self._issuer_url = issuer_url.rstrip("/")
        self._credentials = None if email is None or password is None else {"email": email, "password": password}
        self._tokens = tokens
        self._on_change = on_change
        self._lock = threading.Lock()
        self._loop_locks: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
        # Counts finished attempts. A request that waited during a failed attempt fails with it
        # instead of trying again.
        self._attempts = 0
        self._failure: IssuerError | None = None

    @property
    def tokens(self) -> Tokens | None:
        """The current tokens."""
        return self._tokens

    def sync_auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Called by httpx for each request."""
        unfit: str | None = None
        while True:
            attempts = self._attempts
            if self._needed(unfit):
                with self._lock:
                    renewal = self._renewal(unfit, attempts)
                    try:
                        ask = next(renewal, None)
                        while ask is not None:
                            response = yield ask
                            response.read()
                            ask = renewal.send(response)
                    except StopIteration:
                        pass
                    finally:
                        renewal.close()
            sent = self._authorize(request)
            response = yield request
            if unfit is not None or not _is_refused(request, response):
                return
            response.read()
            unfit = sent

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Called by httpx for each request of an `AsyncClient`."""
        unfit: str | None = None
        while True:
            attempts = self._attempts
            if self._needed(unfit):
                async with self._loop_lock():
                    renewal = self._renewal(unfit, attempts)
                    try:
                        ask = next(renewal, None)
                        while ask is not None:
                            response = yield ask
                            await response.aread()
                            ask = renewal.send(response)
                    except StopIteration:
                        pass
                    finally:
                        renewal.close()
            sent = self._authorize(request)
            response = yield request
            if unfit is not None or not _is_refused(request, response):
                return
            await response.aread()
            unfit = sent

    def logout(self, client: httpx.Client, *, scope: str = "local") -> None:
        """Ends the session; `scope` is `local`, `others` or `global`. After a failure it may be called again."""
        request = self._logout(client, scope)
        if request is not None:
            self._logged_out(client.send(request, auth=None), scope)

    async def logout_async(self, client: httpx.AsyncClient, *, scope: str = "local") -> None:
        """`logout`, with an `AsyncClient`."""
        request = self._logout(client, scope)
        if request is not None:
            self._logged_out(await client.send(request, auth=None), scope)

    def _needed(self, unfit: str | None) -> bool:
        tokens = self._tokens
        if tokens is None or tokens.access_token == unfit:
            return True
        return tokens.expires_at - time.time() < _MARGIN_SECONDS

    def _renewal(self, unfit: str | None, attempts: int) -> Generator[httpx.Request, httpx.Response, None]:
        """Gets new tokens from the issuer, unless another request has just done so. Runs under the lock."""
        if not self._needed(unfit):
            return
        if self._attempts != attempts and self._failure is not None:
            raise type(self._failure)(self._failure.status, self._failure.code)
        # The failure if the request does not return: httpx closes this generator when it fails.
        self._failure = IssuerError(503, "temporarily_unavailable")
        try:
            yield from self._refresh_or_login(self._tokens)
        except IssuerError as error:
            self._failure = error
            raise
        finally:
            self._attempts += 1
        self._failure = None

    def _refresh_or_login(self, tokens: Tokens | None) -> Generator[httpx.Request, httpx.Response, None]:
        refused = LoginRequiredError(401, "invalid_grant")
        if tokens is not None:
            response = yield self._ask("/auth/refresh", {"refresh_token": tokens.refresh_token})
            if response.status_code == httpx.codes.OK:
                return self._keep(_parse(response))
            if response.status_code != httpx.codes.UNAUTHORIZED:
                raise IssuerError(response.status_code, _code(response))
            self._keep(None)
            refused = LoginRequiredError(response.status_code, _code(response))
        if self._credentials is None:
            raise refused
        response = yield self._ask("/auth/login", self._credentials)
        if response.status_code == httpx.codes.OK:
            return self._keep(_parse(response))
        kind = LoginRequiredError if response.status_code == httpx.codes.UNAUTHORIZED else IssuerError
        raise kind(response.status_code, _code(response))

    def _ask(self, path: str, body: dict[str, str]) -> httpx.Request:
        return httpx.Request("POST", self._issuer_url + path, json=body, headers={"Accept": "application/json"})

    def _authorize(self, request: httpx.Request) -> str:
        tokens = self._tokens
        if tokens is None:
            raise LoginRequiredError(401, "invalid_grant")
        request.headers["Authorization"] = f"Bearer {tokens.access_token}"
        return tokens.access_token

    def _keep(self, tokens: Tokens | None) -> None:
        self._tokens = tokens
        if self._on_change is not None:
            self._on_change(tokens)

    def _loop_lock(self) -> asyncio.Lock:
        return self._loop_locks.setdefault(asyncio.get_running_loop(), asyncio.Lock())

    def _logout(self, client: httpx.Client | httpx.AsyncClient, scope: str) -> httpx.Request | None:
        tokens = self._tokens
        if tokens is None:
            return None
        headers = {"Authorization": f"Bearer {tokens.access_token}"}
        body = {"refresh_token": tokens.refresh_token, "scope": scope}
        return client.build_request("POST", f"{self._issuer_url}/auth/logout", json=body, headers=headers)

    def _logged_out(self, response: httpx.Response, scope: str) -> None:
        # 401: the session had ended already.
        if response.status_code not in (httpx.codes.NO_CONTENT, httpx.codes.UNAUTHORIZED):
            raise IssuerError(response.status_code, _code(response))
        if scope != "others":
            self._keep(None)


def _is_refused(request: httpx.Request, response: httpx.Response) -> bool:
    """Whether a new token may help, and the request can be sent twice."""
    return response.status_code == httpx.codes.UNAUTHORIZED and isinstance(request.stream, httpx.ByteStream)


def _parse(response: httpx.Response) -> Tokens:
    try:
        body: dict[str, Any] = response.json()
        return Tokens(body["access_token"], body["refresh_token"], time.time() + float(body["expires_in"]))
    except (ValueError, KeyError, TypeError) as error:
        raise IssuerError(response.status_code, "internal") from error


def _code(response: httpx.Response) -> str:
    try:
        return str(response.json()["code"])
    except (ValueError, KeyError, TypeError):
        return "internal"
