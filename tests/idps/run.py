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
from provider import Provider
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
    scenarios = [Scenario(stack, provider) for provider in providers]
    for scenario in scenarios:
        scenario.before_the_log()
    # Tokens say the second of their issue.
    time.sleep(2)
    stack.start("".join(scenario.entries(None) for scenario in scenarios))
    for scenario in scenarios:
        scenario.not_enrolled()
    enrolled_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    stack.issuers_file.write_text("".join(scenario.entries(enrolled_at) for scenario in scenarios))
    for scenario in scenarios:
        scenario.enrolled()
        scenario.run()
    stack.lose_data()
    for scenario in scenarios:
        scenario.after_a_loss()
        scenario.new_key()
    for scenario in scenarios:
        scenario.without_provider(functools.partial(programs.end, scenario.provider.name))
    print(f"doors: {', '.join(stack.doors)}")
    print(f"{len(scenarios)} passed, 0 failed")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
