"""What every provider is put through: its access tokens are accepted at every door, and refused after a revocation."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import web
from provider import Provider, Tokens, Twin
from stack import Stack

#: Far more than it takes: a machine may be busy.
LIMIT_SECONDS = 30.0


class Scenario:
    """One provider, its twin, and the running stack."""

    def __init__(self, stack: Stack, provider: Provider) -> None:
        self.stack, self.provider, self.twin = stack, provider, Twin(provider, stack.folder)
        #: Tokens from before the log.
        self._living: list[str] = []

    def entries(self, enrolled_at: str | None) -> str:
        """The part of ISSUERS_FILE about the provider and its twin."""
        provider = self.provider
        own = provider.entry(provider.name, provider.iss(), provider.keys(), provider.algorithms, enrolled_at)
        return own + self.twin.entry

    def run(self) -> None:
        self._accepted()
        self._other_kinds()
        slowest = [self._by_session(), self._by_token(), *self._by_user_and_client()]
        shown = ", ".join(f"{kind} {seconds * 1000:.0f} ms" for kind, seconds in slowest if kind)
        print(f"{self.provider.name} {self.provider.version()}: refused at every door after {shown}", flush=True)

    def before_the_log(self) -> None:
        """Logs in while there is no verifier: one token of each client, as some providers make a key at first need."""
        logins = (("ada", self.provider.shop), ("bob", self.provider.till))
        self._living = [self._fresh(*login).access for login in logins]
        if (machine := self.provider.machine_token()) is not None:
            self._living.append(machine)

    def not_enrolled(self) -> None:
        """The first day: living tokens are older than the log, and refused by that name."""
        for token in self._living:
            for door, seen in self.stack.at_every_door(token).items():
                assert (seen.status, seen.code) == (401, "token_revoked"), f"{door}: older than the log: {seen}"
                assert "enrolled_at" in seen.detail or door != "POST /verify", seen

    def enrolled(self) -> None:
        """Once the issuers' file says since when the provider is enrolled, they are accepted."""
        begun = time.monotonic()
        while self.stack.doors["POST /verify"](self._living[0]).status != 200:
            assert time.monotonic() - begun < LIMIT_SECONDS, "the new issuers' file is not in use"
            time.sleep(0.1)
        for token in self._living:
            self._good(token, self.provider.name)

    def after_a_loss(self) -> None:
        """Revocations may have been lost with the log: living tokens are refused again, new ones are accepted."""
        begun = time.monotonic()
        while self.stack.doors["POST /verify"](token := self._fresh("bob", self.provider.till).access).status != 200:
            assert time.monotonic() - begun < LIMIT_SECONDS, "no token is accepted after the loss"
            time.sleep(1)
        self._good(token, self.provider.name)
        self.not_enrolled()

    def without_provider(self, stop: Callable[[], None]) -> None:
        """A token that the provider issued before it stopped stays good."""
        token = self._fresh("bob", self.provider.till).access
        stop()
        self._good(token, self.provider.name)

    def _accepted(self) -> None:
        tokens = [self._fresh("ada").access]
        if (machine := self.provider.machine_token()) is not None:
            tokens.append(machine)
        for token in tokens:
            self._good(token, self.provider.name)
            self._good(self.twin.of(token), self.twin.name)
            claims = self.stack.claims(token)
            for name, value in self.provider.shown(token).items():
                assert claims.get(name, "") == value, f"{name} is not {value} in {claims}: {web.payload(token)}"

    def _other_kinds(self) -> None:
        others = self.provider.other_kinds()
        if (id_token := self._fresh("ada").id) is not None:
            others = others | {"an ID token": id_token}
        assert others, "no token of another kind was tried"
        for kind, token in others.items():
            for door, seen in self.stack.at_every_door(token).items():
                assert (seen.status, seen.code) == (401, "token_invalid"), f"{kind} at {door}: {seen}"

    def _by_session(self) -> tuple[str, float]:
        if self.provider.session is None:
            return "", 0.0
        first, second, bob = self._fresh("ada").access, self._fresh("ada").access, self._fresh("bob").access
        return "session", self._revoked(["session", self.provider.session_of(first)], first, [second, bob])

    def _by_token(self) -> tuple[str, float]:
        if self.provider.token is None:
            return "", 0.0
        first, second, third = (self._fresh("ada").access for _ in range(3))
        self._revoked(["token", first], first, [second, third])
        jti = web.payload(second)[self.provider.token]
        return "token", self._revoked(["token", jti], second, [third])

    def _by_user_and_client(self) -> Iterable[tuple[str, float]]:
        ada, bob = self._fresh("ada").access, self._fresh("bob").access
        elsewhere = self._fresh("bob", self.provider.till).access
        yield "user", self._revoked(["user", self._subject(ada)], ada, [bob, elsewhere])
        if self.provider.client is not None:
            client = web.payload(bob)[self.provider.client]
            assert client != web.payload(elsewhere)[self.provider.client]
            what = ["claim", self.provider.client, "--value", client]
            yield "client", self._revoked(what, bob, [elsewhere])

    def new_key(self) -> None:
        """A new key is used once it is there; the old one is revoked."""
        old = self._fresh("bob", self.provider.till).access
        if not self.provider.rotate():
            return
        new = self._fresh("bob", self.provider.till).access
        kid = web.header(old)["kid"]
        assert web.header(new)["kid"] != kid
        # A verifier that has just fetched the keys does so again only after a while.
        begun = time.monotonic()
        while self.stack.at_every_door(new)["POST /verify"].status != 200:
            assert time.monotonic() - begun < LIMIT_SECONDS * 2, "the new key was never fetched"
            time.sleep(0.2)
        self._revoked(["key", kid], old, [new])

    def _fresh(self, user: str, client: str | None = None) -> Tokens:
        return self.provider.log_in(user, client or self.provider.shop)

    def _subject(self, token: str) -> str:
        subject: str = web.payload(token)["sub"]
        return subject

    def _good(self, token: str, issuer: str) -> None:
        subject = f"{issuer}:{self._subject(token)}"
        for door, seen in self.stack.at_every_door(token).items():
            assert seen.status == 200, f"{door}: {seen} for {web.header(token)} {web.payload(token)}"
            assert (seen.subject, seen.issuer) == (subject, issuer), f"{door}: {seen}"

    def _revoked(self, what: list[str], dead: str, alive: list[str]) -> float:
        """Revokes, and returns after how many seconds `dead` was refused at every door.

        `alive` and the twins of all stay good.
        """
        for token in (dead, *alive):
            self._good(token, self.provider.name)
        self.stack.revoke("--issuer", self.provider.name, *what)
        begun = time.monotonic()
        for door, ask in self.stack.doors.items():
            while (seen := ask(dead)).status == 200:
                assert time.monotonic() - begun < LIMIT_SECONDS, f"{door}: still accepted after revoking {what}"
            assert (seen.status, seen.code) == (401, "token_revoked"), f"{door}: {seen}"
        took = time.monotonic() - begun
        for token in alive:
            self._good(token, self.provider.name)
        for token in (dead, *alive):
            self._good(self.twin.of(token), self.twin.name)
        return took
