"""Keycloak, from Maven Central: authorization code and client credentials in a realm of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import web
from programs import Programs, free_port
from provider import Provider, Tokens

PASSWORD = "open sesame"


class Keycloak(Provider):
    name = "keycloak"
    preset = "keycloak"
    client = "azp"
    # One for each client: shop, till, and the one without users.
    algorithms: ClassVar = ["RS256", "ES256", "PS256"]

    def __init__(self, packages: Path) -> None:
        self._home = packages / "keycloak"
        self._url = self._refresh_token = ""

    def start(self, programs: Programs) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        imported = self._home / "data/import"
        imported.mkdir(parents=True, exist_ok=True)
        (imported / "corp.json").write_text(json.dumps(self._realm()))
        options = ["--import-realm", "--http-host=127.0.0.1", f"--http-port={port}", "--db=dev-mem", "--cache=local"]
        command = ["bash", str(self._home / "bin/kc.sh"), "start-dev", *options, "--health-enabled=false"]
        settings = {"JAVA_OPTS_KC_HEAP": "-Xms128m -Xmx512m"}
        metadata = f"{self.iss()}/.well-known/openid-configuration"
        programs.start(self.name, command, settings, lambda: web.answers(metadata))

    def version(self) -> str:
        return (self._home / "version.txt").read_text().split()[-1]

    def iss(self) -> str:
        return f"{self._url}/realms/corp"

    def log_in(self, user: str, client: str) -> Tokens:
        fields = {"username": user, "password": PASSWORD}
        endpoint = f"{self.iss()}/protocol/openid-connect"
        registered = web.Client(client, f"secret-of-{client}")
        given = web.code_flow(web.Browser(), registered, f"{endpoint}/auth", f"{endpoint}/token", fields)
        self._refresh_token = given["refresh_token"]
        return Tokens(given["access_token"], given["id_token"])

    def other_kinds(self) -> dict[str, str]:
        return {"a refresh token": self._refresh_token}

    def machine_token(self) -> str | None:
        client = web.Client("robot", "secret-of-robot")
        return web.client_credentials(client, f"{self.iss()}/protocol/openid-connect/token", {})

    def _realm(self) -> dict[str, Any]:
        return {
            "realm": "corp",
            "enabled": True,
            "sslRequired": "none",
            "clients": [self._client(*pair) for pair in zip((self.shop, self.till, "robot"), self.algorithms)],
            "users": [self._user("ada"), self._user("bob")],
        }

    def _client(self, name: str, algorithm: str) -> dict[str, Any]:
        audience = {"included.custom.audience": self.audience, "access.token.claim": "true", "id.token.claim": "false"}
        mapper = {
            "name": "audience",
            "protocol": "openid-connect",
            "protocolMapper": "oidc-audience-mapper",
            "config": audience,
        }
        return {
            "clientId": name,
            "secret": f"secret-of-{name}",
            "redirectUris": [web.Client(name, "").redirect_uri],
            "serviceAccountsEnabled": True,
            "attributes": {"access.token.signed.response.alg": algorithm},
            "protocolMappers": [mapper],
        }

    @staticmethod
    def _user(name: str) -> dict[str, Any]:
        return {
            "username": name,
            "enabled": True,
            "email": f"{name}@corp.example",
            "emailVerified": True,
            "firstName": name,
            "lastName": "Corp",
            "credentials": [{"type": "password", "value": PASSWORD}],
        }
