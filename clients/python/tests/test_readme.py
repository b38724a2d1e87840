"""Runs the README's examples as written; only ports, and the token for `eyJ...`, are filled in.
Also the function of docs/migration.md for old and new tokens, and the user lookup of docs/fastapi.md."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import httpx
import jwt
import pytest
import sidegate
from conftest import answers, bearer, eventually, log_in, log_out
from fastapi import Depends, FastAPI, HTTPException
from fastapi.testclient import TestClient
from sidegate.fastapi import install, require_user
from sidegate.testing import TestVerifier
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from stack import Stack, free_port
from starlette.requests import Request

README = Path(__file__).parents[1].joinpath("README.md").read_text()
FASTAPI, ANYWHERE, TESTING, CALLING = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def run(tmp_path: Path, stack: Stack, example: str) -> str:
    """The output of the example."""
    (tmp_path / "example.py").write_text(example)
    command = [sys.executable, "example.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | stack.app_settings, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_fastapi(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(FASTAPI)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "main:app", "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen(command, cwd=tmp_path, env=os.environ | stack.app_settings)
    try:
        url = f"http://127.0.0.1:{port}"
        eventually("the example answers", lambda: answers(url))
        token, reader = log_in(stack)["access_token"], log_in(stack, "bob@example.org")["access_token"]
        assert httpx.get(f"{url}/").json() == "hello, whoever you are"
        assert httpx.get(f"{url}/", headers=bearer(token)).json() == "hello 1"
        assert httpx.get(f"{url}/me", headers=bearer(token)).json() == {"user": "1"}
        assert httpx.get(f"{url}/notes", headers=bearer(reader)).json() == ["needs the scope read"]
        assert httpx.post(f"{url}/notes", headers=bearer(token)).json() == "needs both scopes"
        denied = httpx.post(f"{url}/notes", headers=bearer(reader))
        assert (denied.status_code, denied.json()["code"]) == (403, "insufficient_scope")
        denied = httpx.get(f"{url}/me")
        assert (denied.status_code, denied.json()["code"]) == (401, "token_missing")
        log_out(stack, token)
        eventually("logged out", lambda: httpx.get(f"{url}/me", headers=bearer(token)).status_code == 401)
    finally:
        process.terminate()
        process.wait(20)


def test_anywhere_else(stack: Stack, tmp_path: Path) -> None:
    assert run(tmp_path, stack, ANYWHERE).startswith("token_invalid ")
    token = log_in(stack)["access_token"]
    example = ANYWHERE.replace("eyJ...", token, 1)
    assert run(tmp_path, stack, example).startswith("1 ('read', 'write') 1")
    log_out(stack, token)
    eventually("logged out", lambda: run(tmp_path, stack, example) == "logged out\n")


def test_testing_an_application(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / "main.py").write_text(FASTAPI)
    (tmp_path / "test_main.py").write_text("from main import app\n" + TESTING)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "test_main.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "1 passed" in done.stdout


def test_calling_protected_services(stack: Stack, tmp_path: Path) -> None:
    example = CALLING.replace("http://127.0.0.1:8080", stack.issuer_url).replace("http://127.0.0.1:8000", stack.app_url)
    assert "'email': 'alice@example.org'" in run(tmp_path, stack, example)


def test_either_accepts_old_and_new_tokens(stack: Stack) -> None:
    page = Path(__file__).parents[3].joinpath("docs/migration.md").read_text()
    secret = "the application's old secret, of 32 bytes or more"
    daemon = sidegate.Verifier(stack.verifier_settings["VERIFIER_SOCKET"], attach=False)
    names = {"Request": Request, "sidegate": sidegate, "jwt": jwt, "verifier": daemon, "OLD_SECRET": secret}
    exec(re.findall(r"```python\n(def either.*?)```", page, re.DOTALL)[0], names)
    either = names["either"]

    def sub(token: str) -> str:
        headers = [(b"authorization", f"Bearer {token}".encode())]
        found: str = either(Request({"type": "http", "headers": headers}))  # type: ignore[operator]
        return found

    token = log_in(stack)["access_token"]
    assert sub(jwt.encode({"sub": "of old"}, secret, algorithm="HS256")) == "of old"
    assert sub(token) == "1"
    with pytest.raises(jwt.InvalidSignatureError):
        sub(jwt.encode({"sub": "of old"}, secret[::-1], algorithm="HS256"))
    # A token that claims to be new is checked as such, whoever signed it.
    with pytest.raises(sidegate.InvalidTokenError):
        sub(jwt.encode({"sub": "of old"}, secret, algorithm="HS256", headers={"typ": "at+jwt"}))
    log_out(stack, token)
    with pytest.raises(sidegate.RevokedTokenError):
        eventually("logged out", lambda: not sub(token))


class Base(DeclarativeBase):
    """The application's tables."""


class User(Base):
    """As in fastapi-users, reduced to the columns used here."""

    __tablename__ = "user"
    id: Mapped[int] = mapped_column(primary_key=True)
    is_active: Mapped[bool]


def test_missing_or_disabled_user_is_401(tmp_path: Path) -> None:
    page = Path(__file__).parents[3].joinpath("docs/fastapi.md").read_text()
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/app.db")

    async def session() -> Any:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as db:
            if await db.get(User, 1) is None:
                db.add_all([User(id=1, is_active=True), User(id=2, is_active=False)])
                await db.commit()
            yield db

    names: dict[str, Any] = {
        "Annotated": Annotated,
        "Token": sidegate.Token,
        "Depends": Depends,
        "require_user": require_user,
    }
    names |= {"User": User, "HTTPException": HTTPException, "Session": Annotated[AsyncSession, Depends(session)]}
    exec(re.findall(r"```python\n(async def current_user.*?)```", page, re.DOTALL)[0], names)
    verifier, app = TestVerifier(), FastAPI()
    install(app, verifier)
    current_user = names["current_user"]

    @app.get("/me")
    def me(user: Any = Depends(current_user)) -> int:  # noqa: B008
        return int(user.id)

    with TestClient(app) as client:
        seen = [client.get("/me", headers=bearer(verifier.issue(sub))) for sub in ("1", "2", "3")]
    assert [reply.status_code for reply in seen] == [200, 401, 401]
    assert seen[0].json() == 1
    assert seen[1].headers["www-authenticate"] == "Bearer"
