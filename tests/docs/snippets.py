"""Runs the code of docs/other-languages.md against a real issuer and verifier: good token, none, after logout, verifier gone.

Usage: snippets.py FOLDER-WITH-PROGRAMS. A language that is not installed is NOT RUN, and says so.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "other-languages.md"
WAIT_SECONDS = 60

# How a block is made a program that prints "STATUS SUBJECT", and how that is run: (language, file, code around it, command).
JS = '{}\nconst a = await check(process.env.AUTHORIZATION);\nconsole.log(a.status, a.subject ?? "");\nprocess.exit(0);\n'
GO = '{}\nfunc main() {{\n\tstatus, subject := check(os.Getenv("AUTHORIZATION"))\n\tprintln(status, subject)\n}}\n'
JAVA = (
    "{}\nclass Main {{ public static void main(String[] args) throws Exception {{\n"
    'var a = Sidegate.check(System.getenv("AUTHORIZATION"));\nSystem.out.println(a.status() + " " + a.subject());\n}} }}\n'
)
PHP = "<?php\n{}\n[$status, $subject] = check(getenv('AUTHORIZATION') ?: null);\necho \"$status $subject\\n\";\n"
LANGUAGES = {
    "js": ("node", "check.mjs", JS, ["node", "check.mjs"]),
    "go": ("go", "check.go", GO, ["./check"]),
    "java": ("javac", "Main.java", JAVA, ["java", "-cp", ".", "Main"]),
    "php": ("php", "check.php", PHP, ["php", "check.php"]),
}
COMPILE = {"go": ["go", "build", "-o", "check", "check.go"], "java": ["javac", "Main.java"]}


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def call(url: str, body: object = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", **(headers or {})})
    if data is None and headers:
        request.method = "POST"
    try:
        with urllib.request.urlopen(request, timeout=WAIT_SECONDS) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def until_ready(url: str, program: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            if call(url)[0] == 200:
                return
        except OSError:
            pass
        if program.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"{url} did not become ready")
        time.sleep(0.05)


def prepare(folder: Path) -> dict[str, Path]:
    """Writes and compiles a program for each language that is installed; returns their folders."""
    text = PAGE.read_text()
    made = {}
    for language, (needed, name, around, _) in LANGUAGES.items():
        block = re.search(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)
        if block is None:
            sys.exit(f"{PAGE.name} has no block in {language}")
        if shutil.which(needed) is None:
            print(f"NOT RUN: {language}: {needed} is not installed")
            continue
        place = folder / language
        place.mkdir()
        (place / name).write_text(around.format(block[1]))
        if language in COMPILE:
            subprocess.run(COMPILE[language], cwd=place, check=True, env={**os.environ, "GOFLAGS": "-mod=mod"})
        made[language] = place
    return made


def main() -> None:
    programs = Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory(prefix="sidegate-docs-") as name:
        folder = Path(name)
        places = prepare(folder)
        public, admin, feed, listen, verifier_admin = (free_port() for _ in range(5))
        settings = {
            "PATH": os.environ["PATH"],
            "JWT_SECRET_KEY": "b2Zj9wq4Lk7Rt1Vn6Xd3Hs8Mp5Yc0Gf+aUeIoTxQ",
            "DATABASE_URL": f"sqlite://{folder}/users.db",
            "STORE_URL": f"sqlite://{folder}/store.db",
            "BCRYPT_COST": "4",
            "ISSUER_LISTEN": f"127.0.0.1:{public}",
            "ISSUER_ADMIN_LISTEN": f"127.0.0.1:{admin}",
            "ISSUER_FEED_LISTEN": f"127.0.0.1:{feed}",
            "ISSUER_FEED_URL": f"http://127.0.0.1:{feed}",
            "VERIFIER_SOCKET": f"{folder}/verifier.sock",
            "ATTACH_SOCKET": f"{folder}/attach.sock",
            "VERIFIER_LISTEN": f"127.0.0.1:{listen}",
            "VERIFIER_ADMIN_LISTEN": f"127.0.0.1:{verifier_admin}",
            "INTROSPECT_TOKEN": "introspection-token-of-this-test",
        }
        email, password = "demo@example.org", "a password"
        demo = [programs / "sidegate-issuer", "demo-user", "--email", email]
        subprocess.run(demo, input=password.encode(), env=settings, check=True, stdout=subprocess.DEVNULL)
        running = []
        try:
            for program, port in (("sidegate-issuer", admin), ("sidegate-verifier", verifier_admin)):
                with (folder / f"{program}.log").open("wb") as log:
                    running.append(subprocess.Popen([programs / program], env=settings, stdout=log, stderr=log))
                until_ready(f"http://127.0.0.1:{port}/readyz", running[-1])
            play(settings, places, email, password, running[1])
        finally:
            for program in running:
                program.terminate()
            for program in running:
                program.wait(WAIT_SECONDS)


def play(
    settings: dict[str, str], places: dict[str, Path], email: str, password: str, verifier: subprocess.Popen[bytes]
) -> None:
    issuer = f"http://{settings['ISSUER_LISTEN']}"
    status, body = call(f"{issuer}/auth/login", {"email": email, "password": password})
    assert status == 200, body
    token = json.loads(body)["access_token"]
    environment = {**settings, "VERIFIER_URL": f"http://{settings['VERIFIER_LISTEN']}", "HOME": os.environ.get("HOME", "/")}

    def expect(wanted: str, authorization: str | None) -> None:
        header = {} if authorization is None else {"AUTHORIZATION": authorization}
        for language, place in places.items():
            command = LANGUAGES[language][3]
            ran = subprocess.run(command, cwd=place, env={**environment, **header}, capture_output=True, text=True)
            got = (ran.stdout + ran.stderr).strip()
            assert got == wanted, f"{language}: expected {wanted!r}, got {got!r}"

    def introspect() -> object:
        block = re.search(r"^```sh\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
        assert block is not None
        ran = subprocess.run(["sh", "-c", block[1]], env={**environment, "TOKEN": token}, capture_output=True, check=True)
        return json.loads(ran.stdout)["active"]

    expect("200 1", f"Bearer {token}")
    expect("401", None)
    assert introspect() is True
    status, body = call(f"{issuer}/auth/logout", headers={"authorization": f"Bearer {token}"})
    assert status == 204, body
    deadline = time.monotonic() + WAIT_SECONDS
    while introspect() is True:
        assert time.monotonic() < deadline, "the token outlived the logout"
        time.sleep(0.01)
    expect("401", f"Bearer {token}")
    verifier.terminate()
    verifier.wait(WAIT_SECONDS)
    expect("503", f"Bearer {token}")
    print(f"docs/other-languages.md: {', '.join(places)} and curl did what the page says")


if __name__ == "__main__":
    main()
