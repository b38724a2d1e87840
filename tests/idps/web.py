"""HTTP as a browser and as a client library speak it: plain requests, and logins through a provider's pages."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import secrets
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from html.parser import HTMLParser
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any

TIMEOUT_SECONDS = 60.0
STEPS_MAX = 20


@dataclass
class Answer:
    status: int
    headers: Message
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class Browser:
    """Requests that share cookies and follow no redirect by themselves."""

    def __init__(self) -> None:
        # Loopback counts as a secure origin, as in browsers.
        cookies = CookieJar(DefaultCookiePolicy(secure_protocols=("http", "https")))
        handlers = [urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor(cookies), _NoRedirect()]
        self._opener = urllib.request.build_opener(*handlers)

    def send(
        self,
        url: str,
        *,
        form: Mapping[str, str] | None = None,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        method: str | None = None,
    ) -> Answer:
        """Sends one request: a GET, or a POST of a form or of JSON."""
        sent = dict(headers or {})
        data = None
        if form is not None:
            data = urllib.parse.urlencode(form).encode()
        elif body is not None:
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        request = urllib.request.Request(url, data, sent, method=method)
        try:
            with self._opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
                return Answer(answer.status, answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.headers, error.read())

    def walk(self, url: str, redirect_uri: str, fields: Mapping[str, str]) -> dict[str, str]:
        """Follows redirects and fills in forms with `fields` until sent back to the client; returns with what."""
        answer = self.send(url)
        for _ in range(STEPS_MAX):
            location = answer.headers.get("Location")
            if location is not None:
                url = urllib.parse.urljoin(url, location)
                if url.startswith(redirect_uri):
                    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(url).query))
                answer = self.send(url)
                continue
            page = _Form()
            page.feed(answer.body.decode(errors="replace"))
            if answer.status != 200 or not page.found:
                raise SystemExit(f"{url} answered {answer.status}:\n{answer.body.decode(errors='replace')[:2000]}")
            filled = page.inputs | {name: value for name, value in fields.items() if name in page.inputs}
            url = urllib.parse.urljoin(url, page.action)
            answer = self.send(url, form=filled)
        raise SystemExit(f"no end after {STEPS_MAX} steps, at {url}")


class _Form(HTMLParser):
    """The first form of a page that is sent with POST."""

    def __init__(self) -> None:
        super().__init__()
        self.found = False
        self.action = ""
        self.inputs: dict[str, str] = {}
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "form" and not self.found and given.get("method", "").lower() == "post":
            self.found = self._inside = True
            self.action = given.get("action", "")
        elif self._inside and tag in ("input", "button") and given.get("name"):
            is_choice = given.get("type") in ("checkbox", "radio")
            if not is_choice or "checked" in given:
                self.inputs.setdefault(given["name"], given.get("value", ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False


def answers(url: str) -> bool:
    """True once the URL answers with 200."""
    try:
        return Browser().send(url).status == 200
    except OSError:
        return False


def over_socket(path: Path, method: str, target: str, body: str) -> Answer:
    """A request over a Unix socket."""

    class Connection(http.client.HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(TIMEOUT_SECONDS)
            self.sock.connect(str(path))

    connection = Connection("localhost")
    try:
        connection.request(method, target, body)
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def payload(token: str) -> dict[str, Any]:
    """A JWT's payload, unverified."""
    claims: dict[str, Any] = json.loads(_decoded(token.split(".")[1]))
    return claims


def header(token: str) -> dict[str, Any]:
    """A JWT's header."""
    members: dict[str, Any] = json.loads(_decoded(token.split(".")[0]))
    return members


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def encoded(raw: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@dataclass(frozen=True)
class Client:
    """An OAuth client that is registered with a provider."""

    id: str
    secret: str
    redirect_uri: str = "https://app.example/callback"

    def basic(self) -> dict[str, str]:
        pair = f"{self.id}:{self.secret}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}


def code_flow(
    browser: Browser,
    client: Client,
    authorize: str,
    token: str,
    fields: Mapping[str, str],
    *,
    more: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The authorization code flow with PKCE; returns the token endpoint's answer. `more` goes to both endpoints."""
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(12)
    asked = {
        "response_type": "code",
        "client_id": client.id,
        "redirect_uri": client.redirect_uri,
        "scope": "openid",
        "state": state,
        "nonce": secrets.token_urlsafe(12),
        "code_challenge": encoded(hashlib.sha256(verifier.encode()).digest()),
        "code_challenge_method": "S256",
    }
    sent_back = browser.walk(
        f"{authorize}?{urllib.parse.urlencode(asked | dict(more or {}))}", client.redirect_uri, fields
    )
    assert sent_back.get("state") == state, sent_back
    assert "code" in sent_back, sent_back
    form = {
        "grant_type": "authorization_code",
        "code": sent_back["code"],
        "redirect_uri": client.redirect_uri,
        "code_verifier": verifier,
    }
    # The client's own request, which has no cookie of the user's browser.
    answer = Browser().send(token, form=form | dict(more or {}), headers=client.basic())
    assert answer.status == 200, answer.body
    given: dict[str, Any] = answer.json()
    return given


def client_credentials(client: Client, token: str, form: Mapping[str, str]) -> str:
    """An access token of the client itself."""
    form = {"grant_type": "client_credentials"} | dict(form)
    answer = Browser().send(token, form=form, headers=client.basic())
    assert answer.status == 200, answer.body
    access: str = answer.json()["access_token"]
    return access
