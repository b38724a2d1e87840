"""The npm package oidc-provider: authorization code and client credentials, RFC 9068 access tokens."""

from __future__ import annotations

import json
from pathlib import Path

import web
from programs import Programs, free_port
from provider import Provider, Tokens

NODE = Path(__file__).resolve().parent / "node"


class OidcProvider(Provider):
    name = "oidc-provider"

    def __init__(self, packages: Path) -> None:
        self._packages = packages
        self._url = ""

    def start(self, programs: Programs) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        command = ["node", str(self._packages / "oidc_provider.mjs"), str(port)]
        metadata = f"{self._url}/.well-known/openid-configuration"
        programs.start(self.name, command, {}, lambda: web.answers(metadata))

    def version(self) -> str:
        return node_version(self._packages, "oidc-provider")

    def iss(self) -> str:
        return self._url

    def log_in(self, user: str, client: str) -> Tokens:
        registered = web.Client(client, f"secret-of-{client}")
        more = {"scope": "openid read", "resource": "https://orders.example"}
        fields = {"login": user, "password": "any"}
        given = web.code_flow(web.Browser(), registered, f"{self._url}/auth", f"{self._url}/token", fields, more=more)
        return Tokens(given["access_token"], given["id_token"])

    def machine_token(self) -> str | None:
        client = web.Client(self.till, f"secret-of-{self.till}")
        return web.client_credentials(
            client, f"{self._url}/token", {"resource": "https://orders.example", "scope": "read"}
        )


def node_version(packages: Path, name: str) -> str:
    """The installed version of an npm package."""
    version: str = json.loads((packages / "node_modules" / name / "package.json").read_text())["version"]
    return version
