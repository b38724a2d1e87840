"""Ory Hydra, built from its Go module, with a login and consent application: code flow and client credentials."""

from __future__ import annotations

import secrets
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import web
from programs import Programs, free_port
from provider import Provider, Tokens


class Hydra(Provider):
    name = "hydra"
    preset = "hydra"
    # Its tokens name no session of themselves: the consent application adds one, below `ext`.
    session = ("ext", "sid")
    overrides: ClassVar = {"session": ["ext", "sid"]}

    def __init__(self, packages: Path) -> None:
        self._program = packages / "hydra/hydra"
        self._public = self._admin = ""

    def start(self, programs: Programs) -> None:
        ports = {"PUBLIC": free_port(), "ADMIN": free_port()}
        self._public, self._admin = (f"http://127.0.0.1:{port}" for port in ports.values())
        app = ThreadingHTTPServer(("127.0.0.1", 0), self._login_app())
        threading.Thread(target=app.serve_forever, daemon=True).start()
        settings = {
            "DSN": "memory",
            "SECRETS_SYSTEM": secrets.token_urlsafe(32),
            "STRATEGIES_ACCESS_TOKEN": "jwt",
            "URLS_SELF_ISSUER": self._public,
            "URLS_LOGIN": f"http://127.0.0.1:{app.server_port}/login",
            "URLS_CONSENT": f"http://127.0.0.1:{app.server_port}/consent",
            "SQA_OPT_OUT": "true",
        }
        for name, port in ports.items():
            settings |= {f"SERVE_{name}_HOST": "127.0.0.1", f"SERVE_{name}_PORT": str(port)}
        ready = f"{self._admin}/health/ready"
        programs.start(self.name, [str(self._program), "serve", "all", "--dev"], settings, lambda: web.answers(ready))
        for name in (self.shop, self.till):
            self._ask("POST", "/admin/clients", self._client(name))

    def version(self) -> str:
        return (self._program.parent / "version").read_text().strip()

    def iss(self) -> str:
        return self._public

    def log_in(self, user: str, client: str) -> Tokens:
        registered = web.Client(client, f"secret-of-{client}")
        endpoint = f"{self._public}/oauth2"
        more = {"scope": "openid read", "audience": self.audience, "login_hint": user}
        given = web.code_flow(web.Browser(), registered, f"{endpoint}/auth", f"{endpoint}/token", {}, more=more)
        return Tokens(given["access_token"], given["id_token"])

    def machine_token(self) -> str | None:
        client = web.Client(self.till, f"secret-of-{self.till}")
        return web.client_credentials(
            client, f"{self._public}/oauth2/token", {"audience": self.audience, "scope": "read"}
        )

    def rotate(self) -> bool:
        self._ask("POST", "/admin/keys/hydra.jwt.access-token", {"alg": "RS256", "kid": "new", "use": "sig"})
        return True

    def _client(self, name: str) -> dict[str, Any]:
        return {
            "client_id": name,
            "client_secret": f"secret-of-{name}",
            "grant_types": ["authorization_code", "client_credentials"],
            "response_types": ["code"],
            "redirect_uris": [web.Client(name, "").redirect_uri],
            "scope": "openid read",
            "audience": [self.audience],
        }

    def _ask(self, method: str, target: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = web.Browser().send(f"{self._admin}{target}", body=body, method=method)
        assert answer.status in (200, 201), answer.body
        said: dict[str, Any] = answer.json()
        return said

    def _login_app(self) -> type[BaseHTTPRequestHandler]:
        """The application that Hydra sends browsers to: logs in whom `login_hint` names, and consents."""
        hydra = self

        class LoginApp(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urllib.parse.urlsplit(self.path)
                kind = url.path.removeprefix("/")
                challenge = dict(urllib.parse.parse_qsl(url.query))[f"{kind}_challenge"]
                query = urllib.parse.urlencode({f"{kind}_challenge": challenge})
                request = f"/admin/oauth2/auth/requests/{kind}"
                asked = hydra._ask("GET", f"{request}?{query}")
                accepted = hydra._ask("PUT", f"{request}/accept?{query}", hydra._accepted(kind, asked))
                self.send_response(302)
                self.send_header("Location", accepted["redirect_to"])
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return LoginApp

    @staticmethod
    def _accepted(kind: str, asked: dict[str, Any]) -> dict[str, Any]:
        if kind == "login":
            return {"subject": asked["oidc_context"]["login_hint"]}
        return {
            "grant_scope": asked["requested_scope"],
            "grant_access_token_audience": asked["requested_access_token_audience"],
            "session": {"access_token": {"sid": asked["login_session_id"]}},
        }
