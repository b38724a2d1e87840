"""What a try needs of an identity provider, and a second issuer that signs the same claims."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import web
from programs import Programs


@dataclass(frozen=True)
class Tokens:
    """What a login gives: the access token, and the ID token where there is one."""

    access: str
    id: str | None = None


class Provider:
    """A real identity provider. Every login begins a new session."""

    #: Its name in ISSUERS_FILE, and in what is printed.
    name: str
    #: The claims of its access tokens by which tokens can be revoked; `None` where it has no such claim.
    session: str | tuple[str, ...] | None = "sid"
    token: str | None = "jti"
    client: str | None = "client_id"
    preset = "rfc9068"
    #: What it calls otherwise than its preset does.
    overrides: ClassVar[Mapping[str, str | list[str]]] = {}
    audience = "orders-api"
    algorithms: ClassVar[list[str]] = ["RS256"]
    #: Two clients that are registered with it.
    shop, till = "shop", "till"

    def start(self, programs: Programs) -> None:
        """Starts it, with its clients and users."""
        raise NotImplementedError

    def version(self) -> str:
        raise NotImplementedError

    def iss(self) -> str:
        raise NotImplementedError

    def keys(self) -> str:
        """The line of ISSUERS_FILE that says where its keys are; nothing means discovery."""
        return ""

    def log_in(self, user: str, client: str) -> Tokens:
        raise NotImplementedError

    def machine_token(self) -> str | None:
        """An access token by client credentials, where it gives JWTs for them."""
        return None

    def rotate(self) -> bool:
        """Signs with a new key from now on, where that can be asked of it."""
        return False

    def other_kinds(self) -> dict[str, str]:
        """Further tokens that it signs with the same key and that are not access tokens."""
        return {}

    def session_of(self, token: str) -> str:
        """The session that an access token names."""
        found: Any = web.payload(token)
        for name in (self.session,) if isinstance(self.session, str) else self.session or ("-",):
            found = found.get(name, {})
        return str(found or "-")

    def shown(self, token: str) -> dict[str, str]:
        """What applications are to learn of an access token."""
        claims = web.payload(token)
        names = {"jti": self.token, "client_id": self.client}
        shown = {name: claims.get(claim, "-") if claim else "-" for name, claim in names.items()}
        scope = claims.get("scope") or " ".join(claims.get("scp", []))
        return {"sid": self.session_of(token), "scope": scope} | shown

    def entry(self, name: str, iss: str, keys: str, algorithms: list[str], enrolled_at: str | None = None) -> str:
        """A table of ISSUERS_FILE."""
        enrolled = f"enrolled_at = {enrolled_at}\n" if enrolled_at else ""
        revocable = [self.client] if self.client else []
        claims = "".join(f"{name} = {json.dumps(path)}\n" for name, path in self.overrides.items())
        return (
            f"[[issuer]]\nname = {json.dumps(name)}\niss = {json.dumps(iss)}\npreset = {json.dumps(self.preset)}\n"
            f"audiences = {json.dumps([self.audience])}\nalgorithms = {json.dumps(algorithms)}\n{keys}\n{enrolled}"
            f"[issuer.claims]\nrevocable = {json.dumps(revocable)}\n{claims}\n"
        )


class Twin:
    """An issuer that signs the claims of another's tokens, all but `iss`, with a secret of its own."""

    def __init__(self, provider: Provider, folder: Path) -> None:
        self.name = f"{provider.name}-twin"
        self.iss = f"https://{self.name}.example"
        self._secret = secrets.token_urlsafe(48)
        file = folder / f"{self.name}.secret"
        file.write_text(self._secret)
        file.chmod(0o600)
        self.entry = provider.entry(self.name, self.iss, f"secret_file = {json.dumps(str(file))}", ["HS256"])

    def of(self, token: str) -> str:
        """A token with the same subject, session, identifier and client."""
        header: dict[str, Any] = {"alg": "HS256"}
        if "typ" in web.header(token):
            header["typ"] = web.header(token)["typ"]
        claims = web.payload(token) | {"iss": self.iss}
        signed = ".".join(web.encoded(json.dumps(part).encode()) for part in (header, claims))
        signature = hmac.new(self._secret.encode(), signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{web.encoded(signature)}"
