"""LemonLDAP::NG as Debian packages it, with its demonstration users: authorization code."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import web
from programs import Programs, free_port
from provider import Provider, Tokens

SHARED = Path("/usr/share/lemonldap-ng/portal")
# Users that it knows without a directory; a password is the user's name.
USERS = {"ada": "dwho", "bob": "rtyler"}

INI = """
[all]
logLevel = warn
logger = Lemonldap::NG::Common::Logger::Std
[configuration]
type = File
dirName = {folder}/conf
localStorage = Cache::FileCache
localStorageOptions = {{ 'namespace' => 'conf', 'cache_root' => '{folder}/cache', 'cache_depth' => 1 }}
[portal]
staticPrefix = /static
templateDir = {shared}/templates
languages = en
"""


class Lemonldap(Provider):
    name = "lemonldap-ng"
    # Its header says only that it is a JWT; what marks an access token is client_id, as with Hydra.
    preset = "hydra"
    session = None
    overrides: ClassVar = {"scope": "scope"}

    def __init__(self, _: Path) -> None:
        self._url = ""

    def start(self, programs: Programs) -> None:
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        folder = programs.folder / self.name
        for name in ("conf", "cache", "sessions/lock"):
            (folder / name).mkdir(parents=True)
        (folder / "lemonldap-ng.ini").write_text(INI.format(folder=folder, shared=SHARED))
        (folder / "conf/lmConf-1.json").write_text(json.dumps(self._configuration(folder)))
        command = ["plackup", "--host", "127.0.0.1", "--port", str(port), str(SHARED / "htdocs/index.psgi")]
        settings = {"LLNG_DEFAULTCONFFILE": str(folder / "lemonldap-ng.ini")}
        metadata = f"{self._url}/.well-known/openid-configuration"
        programs.start(self.name, command, settings, lambda: web.answers(metadata))

    def version(self) -> str:
        command = ["dpkg-query", "-W", "-f", "${Version}", "liblemonldap-ng-portal-perl"]
        return subprocess.run(command, text=True, capture_output=True, check=True).stdout

    def iss(self) -> str:
        return self._url

    def log_in(self, user: str, client: str) -> Tokens:
        name = USERS[user]
        registered = web.Client(client, f"secret-of-{client}")
        endpoint = f"{self._url}/oauth2"
        fields = {"user": name, "password": name}
        given = web.code_flow(web.Browser(), registered, f"{endpoint}/authorize", f"{endpoint}/token", fields)
        return Tokens(given["access_token"], given["id_token"])

    def _configuration(self, folder: Path) -> dict[str, Any]:
        private = subprocess.run(["openssl", "genrsa", "2048"], text=True, capture_output=True, check=True).stdout
        public = subprocess.run(
            ["openssl", "rsa", "-pubout"], input=private, text=True, capture_output=True, check=True
        ).stdout
        storage = {"Directory": f"{folder}/sessions", "LockDirectory": f"{folder}/sessions/lock"}
        clients = {name: self._client(name) for name in (self.shop, self.till)}
        return {
            "cfgNum": 1,
            "cfgAuthor": "tests",
            "cfgDate": "1",
            "cfgVersion": "2.16.1",
            "key": os.urandom(16).hex(),
            "portal": f"{self._url}/",
            "domain": "127.0.0.1",
            "securedCookie": 0,
            "cookieName": "lemonldap",
            "authentication": "Demo",
            "userDB": "Same",
            "passwordDB": "Demo",
            "demoExportedVars": {"cn": "cn", "mail": "mail", "uid": "uid"},
            "whatToTrace": "uid",
            "globalStorage": "Apache::Session::File",
            "globalStorageOptions": storage,
            "localSessionStorage": "Cache::FileCache",
            "localSessionStorageOptions": {"cache_root": f"{folder}/cache", "namespace": "sessions"},
            # No page shows a captcha, and its own module needs image libraries: any other module will do.
            "captcha": "::Plugins::History",
            "locationRules": {"127.0.0.1": {"default": "accept"}},
            "exportedHeaders": {},
            "issuerDBOpenIDConnectActivation": 1,
            "oidcServiceMetaDataIssuer": self._url,
            "oidcServicePrivateKeySig": private,
            "oidcServicePublicKeySig": public,
            "oidcServiceKeyIdSig": "key-1",
            "oidcServiceAllowAuthorizationCodeFlow": 1,
            "oidcRPMetaDataOptions": clients,
            "oidcRPMetaDataExportedVars": {name: {"name": "cn"} for name in clients},
        }

    def _client(self, name: str) -> dict[str, Any]:
        options = {
            "ClientID": name,
            "ClientSecret": f"secret-of-{name}",
            "RedirectUris": web.Client(name, "").redirect_uri,
            "AdditionalAudiences": self.audience,
            "AccessTokenJWT": 1,
            "AccessTokenSignAlg": "RS256",
            "IDTokenSignAlg": "RS256",
            "BypassConsent": 1,
        }
        return {f"oidcRPMetaDataOptions{key}": value for key, value in options.items()}
