"""The npm package better-auth: email and password, with the JWTs of its plugin, or as an OAuth authorization server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import web
from oidc_provider import node_version
from programs import Programs, free_port
from provider import Provider, Tokens

PASSWORD = "open sesame"


class BetterAuth(Provider):
    """With its JWT plugin alone: a session's JWT."""

    name = "better-auth"
    # Nothing in its tokens marks them: they are given Keycloak's mark.
    preset = "keycloak"
    algorithms: ClassVar = ["EdDSA"]
    # It has no clients in this form; users have a tenant instead.
    client = "tenant"
    script = "better_auth.mjs"

    def __init__(self, packages: Path) -> None:
        self._packages = packages
        self._url = ""
        self._users: set[str] = set()

    def start(self, programs: Programs) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        command = ["node", str(self._packages / self.script), str(port)]
        programs.start(self.name, command, {}, lambda: web.answers(f"{self._url}/api/auth/ok"))

    def version(self) -> str:
        return node_version(self._packages, "better-auth")

    def iss(self) -> str:
        return self._url

    def keys(self) -> str:
        return f"jwks_url = {json.dumps(self._url + '/api/auth/jwks')}"

    def shown(self, token: str) -> dict[str, str]:
        return super().shown(token) | {"client_id": "-"}

    def log_in(self, user: str, client: str) -> Tokens:
        return Tokens(self._token(self._session(user, client)))

    def other_kinds(self) -> dict[str, str]:
        return {"a JWT without a mark": self._token(self._session("ada", self.shop), {"X-Unmarked": "1"})}

    def _session(self, user: str, tenant: str) -> web.Browser:
        email = f"{user}@{tenant}.example"
        browser, headers = web.Browser(), {"Origin": self._url}
        body = {"email": email, "password": PASSWORD}
        if email not in self._users:
            new = body | {"name": user, "tenant": tenant}
            answer = web.Browser().send(f"{self._url}/api/auth/sign-up/email", body=new, headers=headers)
            assert answer.status == 200, answer.body
            self._users.add(email)
        answer = browser.send(f"{self._url}/api/auth/sign-in/email", body=body, headers=headers)
        assert answer.status == 200, answer.body
        return browser

    def _token(self, browser: web.Browser, headers: dict[str, str] | None = None) -> str:
        answer = browser.send(f"{self._url}/api/auth/token", headers=headers)
        assert answer.status == 200, answer.body
        token: str = answer.json()["token"]
        return token


class BetterAuthOauth(BetterAuth):
    """With its OAuth provider: access tokens that follow RFC 9068."""

    name = "better-auth-oauth"
    preset = "rfc9068"
    audience = "https://orders.example"
    client = "client_id"
    script = "better_auth_oauth.mjs"

    def iss(self) -> str:
        return f"{self._url}/api/auth"

    def keys(self) -> str:
        return ""

    def shown(self, token: str) -> dict[str, str]:
        return Provider.shown(self, token)

    def log_in(self, user: str, client: str) -> Tokens:
        endpoint = f"{self.iss()}/oauth2"
        more = {"scope": "openid read", "resource": self.audience}
        browser = self._session(user, "corp")
        given = web.code_flow(
            browser, self._client(client), f"{endpoint}/authorize", f"{endpoint}/token", {}, more=more
        )
        return Tokens(given["access_token"], given["id_token"])

    def machine_token(self) -> str | None:
        client = self._client(self.till)
        return web.client_credentials(
            client, f"{self.iss()}/oauth2/token", {"resource": self.audience, "scope": "read"}
        )

    def other_kinds(self) -> dict[str, str]:
        return {"a session's JWT": self._token(self._session("ada", "corp"))}

    def _client(self, name: str) -> web.Client:
        made = web.Browser().send(f"{self._url}/clients").json()[name]
        return web.Client(made["id"], made["secret"])
