"""Issuer, verifier, and an application behind each of the doors: FastAPI, Envoy three times, nginx."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import web
from programs import Programs, free_port

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def binary(name: str) -> str:
    """The path of a program of this project."""
    return str(Path(os.environ.get("SIDEGATE_BIN") or ROOT / "target/release") / name)


@dataclass
class Seen:
    """What came of a request with a token: 200 with what the application learnt, or a refusal with its code."""

    status: int
    subject: str = ""
    issuer: str = ""
    code: str = ""
    detail: str = ""


class _Echo(BaseHTTPRequestHandler):
    """The application behind proxies: repeats what the identity headers say."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        said = {"subject": self.headers.get("X-Auth-Subject"), "issuer": self.headers.get("X-Auth-Issuer")}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Stack:
    """The programs of this project, and the proxies, in one folder."""

    def __init__(self, programs: Programs) -> None:
        self.programs = programs
        self.folder = programs.folder
        self.issuers_file = self.folder / "issuers.toml"
        self.verifier_socket = self.folder / "verifier.sock"
        self.attach_socket = self.folder / "attach.sock"
        self.doors: dict[str, Callable[[str], Seen]] = {"POST /verify": self._verify}
        self._echo = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
        ports = {name: f"127.0.0.1:{free_port()}" for name in ("api", "admin", "feed", "probes")}
        self._issuer_admin, self._verifier_admin = ports["admin"], ports["probes"]
        shared = {"JWT_SECRET_KEY": secrets.token_urlsafe(48), "ISSUERS_FILE": str(self.issuers_file)}
        self._issuer = shared | {
            "ISSUER_LISTEN": ports["api"],
            "ISSUER_ADMIN_LISTEN": ports["admin"],
            "ISSUER_FEED_LISTEN": ports["feed"],
            "ADMIN_TOKEN": secrets.token_urlsafe(32),
            "DATABASE_URL": f"sqlite://{self.folder / 'app.db'}",
            "STORE_URL": f"sqlite://{self.folder / 'store.db'}",
            "FOREIGN_ENTRIES": "on",
        }
        self._verifier = shared | {
            "VERIFIER_SOCKET": str(self.verifier_socket),
            "VERIFIER_SOCKET_MODE": "0666",
            "ATTACH_SOCKET": str(self.attach_socket),
            "VERIFIER_ADMIN_LISTEN": ports["probes"],
            "ISSUER_FEED_URL": f"http://{ports['feed']}",
        }

    def start(self, entries: str) -> None:
        """Starts everything with this `ISSUERS_FILE`."""
        self.issuers_file.write_text(entries)
        threading.Thread(target=self._echo.serve_forever, daemon=True).start()
        demo = [binary("sidegate-issuer"), "demo-user", "--email", "demo@example.org"]
        self._run(demo, secrets.token_urlsafe(12))
        self._start_programs()
        self._start_fastapi()
        envoy = self._envoy()
        for name, file in (("Envoy, gRPC", "grpc"), ("Envoy, HTTP", "http"), ("Envoy, module", "module")):
            self._start_proxy(
                name, [envoy, "--concurrency", "1", "--disable-hot-restart", "-l", "warn", "-c"], f"envoy/{file}.yaml"
            )
        nginx = shutil.which("nginx") or "/usr/sbin/nginx"
        for beside in ("sidegate_protect.conf", "sidegate_server.conf"):
            shutil.copy(DEPLOY / "nginx" / beside, self.folder)
        self._start_proxy("nginx", [nginx, "-p", str(self.folder), "-g", "daemon off;", "-c"], "nginx/nginx.conf")

    def lose_data(self) -> None:
        """Starts issuer and verifier again without the store, and so with a new log."""
        for name in ("verifier", "issuer"):
            self.programs.end(name)
        for file in self.folder.glob("store.db*"):
            file.unlink()
        self._start_programs()

    def revoke(self, *what: str) -> None:
        """`sidegate-issuer revoke`; a token is read from standard input where `what` says so."""
        self._run([binary("sidegate-issuer"), "revoke", *what], "")

    def claims(self, token: str) -> dict[str, object]:
        """What the verifier makes of a good token's claims."""
        claims: dict[str, object] = web.over_socket(self.verifier_socket, "POST", "/verify", token).json()["claims"]
        return claims

    def at_every_door(self, token: str) -> dict[str, Seen]:
        return {name: door(token) for name, door in self.doors.items()}

    def _run(self, command: list[str], given: str) -> None:
        done = subprocess.run(command, input=given, text=True, env=os.environ | self._issuer, capture_output=True)
        assert done.returncode == 0, f"{command}: exit code {done.returncode}: {done.stderr}"

    def _start_programs(self) -> None:
        ready = f"http://{self._issuer_admin}/readyz"
        self.programs.start("issuer", [binary("sidegate-issuer")], self._issuer, lambda: web.answers(ready))
        ready_too = f"http://{self._verifier_admin}/readyz"
        self.programs.start("verifier", [binary("sidegate-verifier")], self._verifier, lambda: web.answers(ready_too))

    def _start_fastapi(self) -> None:
        port = free_port()
        uvicorn = [sys.executable, "-m", "uvicorn", "app:app", "--app-dir", str(Path(__file__).parent)]
        sockets = {"VERIFIER_SOCKET": str(self.verifier_socket), "ATTACH_SOCKET": str(self.attach_socket)}
        url = f"http://127.0.0.1:{port}"
        command = [*uvicorn, "--no-access-log", "--port", str(port)]
        self.programs.start("fastapi", command, sockets, lambda: _status(url) == 401)
        self.doors["FastAPI"] = _door(url)

    def _start_proxy(self, name: str, command: list[str], shipped: str) -> None:
        port = free_port()
        app = f"127.0.0.1:{self._echo.server_port}"
        words = {
            ": ATTACH_SOCKET": f": {self.attach_socket}",
            "VERIFIER_SOCKET": str(self.verifier_socket),
            "APP_ADDRESS": app,
            "APP_PORT": str(self._echo.server_port),
            "ENVOY_PORT": str(port),
            "NGINX_LISTEN": f"127.0.0.1:{port}",
            "NGINX_DIR": str(self.folder),
        }
        text = (DEPLOY / shipped).read_text()
        for word, value in words.items():
            text = text.replace(word, value)
        file = self.folder / Path(shipped).name
        file.write_text(text)
        url = f"http://127.0.0.1:{port}"
        module = {"ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(Path(binary("libsidegate_envoy.so")).parent)}
        self.programs.start(file.stem, [*command, str(file)], module, lambda: _status(url) == 401)
        self.doors[name] = _door(url)

    @staticmethod
    def _envoy() -> str:
        found = [
            path for path in (ROOT / "target/envoy").rglob("envoy") if path.is_file() and path.stat().st_size > 10**7
        ]
        if not found:
            raise SystemExit("target/envoy has no Envoy")
        return str(found[0])

    def _verify(self, token: str) -> Seen:
        answer = web.over_socket(self.verifier_socket, "POST", "/verify", token)
        said = answer.json()
        if answer.status != 200:
            return Seen(answer.status, code=said["code"], detail=said["detail"])
        return Seen(200, said["claims"]["sub"], said["issuer"])


def _status(url: str) -> int:
    try:
        return web.Browser().send(url).status
    except OSError:
        return 0


def _door(url: str) -> Callable[[str], Seen]:
    def ask(token: str) -> Seen:
        answer = web.Browser().send(url, headers={"Authorization": f"Bearer {token}"})
        said = answer.json()
        if answer.status != 200:
            return Seen(answer.status, code=said.get("code", ""), detail=said.get("detail", ""))
        return Seen(200, said["subject"], said["issuer"])

    return ask
