"""Puts real identity providers in front of a real verifier: run.py PACKAGES NAME...

PACKAGES is the folder with what the providers are made of (tests/run.d/idps and tests/long.d/idps install it).
"""

from __future__ import annotations

import functools
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from better_auth import BetterAuth, BetterAuthOauth
from hydra import Hydra
from keycloak import Keycloak
from lemonldap import Lemonldap
from oidc_provider import OidcProvider
from programs import Programs
from provider import Provider, Twin
from scenario import Scenario
from stack import Stack

PROVIDERS: dict[str, Callable[[Path], Provider]] = {
    kind.name: kind for kind in (OidcProvider, BetterAuth, BetterAuthOauth, Lemonldap, Hydra, Keycloak)
}


def main(packages: Path, names: list[str]) -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="sidegate-idps.") as scratch:
        folder = Path(scratch)
        # nginx asks the verifier as another user.
        folder.chmod(0o755)
        programs = Programs(folder)
        stack = Stack(programs)
        try:
            try_all(stack, programs, [PROVIDERS[name](packages) for name in names])
        except AssertionError:
            print(programs.log_of("verifier")[-4000:], file=sys.stderr)
            raise
        finally:
            programs.stop()


def try_all(stack: Stack, programs: Programs, providers: list[Provider]) -> None:
    for provider in providers:
        provider.start(programs)
    early = {provider.name: first_tokens(provider) for provider in providers}
    # Tokens say the second of their issue.
    time.sleep(2)
    scenarios, entries = {}, ""
    for provider in providers:
        twin = Twin(provider, stack.folder)
        scenarios[provider.name] = Scenario(stack, provider, twin)
        entries += provider.entry(provider.name, provider.iss(), provider.keys(), provider.algorithms) + twin.entry
    stack.start(entries)
    for name, scenario in scenarios.items():
        for token in early[name]:
            scenario.before_the_log(token)
        scenario.run()
    for name, scenario in scenarios.items():
        scenario.without_provider(functools.partial(programs.end, name))
    print(f"doors: {', '.join(stack.doors)}")
    print(f"{len(scenarios)} passed, 0 failed")


def first_tokens(provider: Provider) -> list[str]:
    """One token of each client: some providers make a key when they first need it."""
    tokens = [provider.log_in("ada", client).access for client in (provider.shop, provider.till)]
    machine = provider.machine_token()
    return [*tokens, machine] if machine else tokens


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
