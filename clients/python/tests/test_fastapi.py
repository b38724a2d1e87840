"""Routes of FastAPI and Starlette: which requests pass, how the others are answered, what the OpenAPI document says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Optional

import pytest
import sidegate
from fastapi import APIRouter, Depends, FastAPI, Security, WebSocket
from fastapi.testclient import TestClient
from sidegate.fastapi import install, optional_user, require, require_user
from sidegate.starlette import SidegateMiddleware
from sidegate.testing import TestVerifier
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

User = Annotated[sidegate.Token, Depends(require_user)]


def make_app() -> FastAPI:
    app = FastAPI()
    router = APIRouter(prefix="/all", dependencies=[Depends(require_user)])

    @app.get("/me")
    def me(user: User) -> str:
        return user.sub

    @app.get("/maybe")
    async def maybe(user: Annotated[Optional[sidegate.Token], Depends(optional_user)]) -> Optional[str]:  # noqa: UP045
        return user.sub if user else None

    @app.get("/read", dependencies=[Security(require_user, scopes=["read"])])
    def read() -> str:
        return "read"

    @app.get("/write")
    def write(user: Annotated[sidegate.Token, Depends(require("read", "write"))]) -> str:
        return user.scope

    @router.get("/things")
    def things() -> list[int]:
        return [1]

    @app.get("/public")
    def public() -> str:
        return "public"

    @app.websocket("/ws")
    async def ws(socket: WebSocket, user: User) -> None:
        await socket.accept()
        await socket.send_text(user.sub)
        await socket.close()

    app.include_router(router)
    return app


@pytest.fixture
def verifier() -> TestVerifier:
    return TestVerifier()


@pytest.fixture
def client(verifier: TestVerifier) -> Iterator[TestClient]:
    app = make_app()
    install(app, verifier, issuer_url="https://issuer.example/")
    with TestClient(app) as client:
        yield client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def refused(answer: Any, status: int, code: str) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["code"] == code
    assert answer.json()["status"] == status
    challenge = answer.headers.get("www-authenticate")
    expected = {"token_missing": "Bearer", "insufficient_scope": 'Bearer error="insufficient_scope"'}
    if status == 503:
        assert challenge is None
        assert answer.headers["retry-after"] == "1"
    else:
        assert challenge.startswith(expected.get(code, 'Bearer error="invalid_token"'))


def test_good_token_passes(client: TestClient, verifier: TestVerifier) -> None:
    headers = bearer(verifier.issue("42", scope="read write"))
    for path, body in [
        ("/me", "42"),
        ("/maybe", "42"),
        ("/read", "read"),
        ("/write", "read write"),
        ("/all/things", [1]),
    ]:
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.json()) == (200, body), path


def test_only_public_routes_pass_without_a_token(client: TestClient) -> None:
    for path in ("/me", "/read", "/write", "/all/things"):
        refused(client.get(path), 401, "token_missing")
    assert client.get("/public").json() == "public"
    assert client.get("/maybe").json() is None


def test_every_rejection_has_its_code(client: TestClient, verifier: TestVerifier) -> None:
    refused(client.get("/me", headers=bearer("junk")), 401, "token_invalid")
    refused(client.get("/me", headers=bearer("two tokens")), 401, "token_invalid")
    refused(client.get("/me", headers={"Authorization": "Basic YTpi"}), 401, "token_missing")
    twice = [("Authorization", "Bearer a"), ("Authorization", "Bearer b")]
    refused(client.get("/me", headers=twice), 401, "token_invalid")
    refused(client.get("/me", headers=bearer(verifier.issue("42", expires_in=-1))), 401, "token_expired")
    token = verifier.issue("42", scope="read")
    assert client.get("/me", headers=bearer(token)).status_code == 200
    scoped = client.get("/write", headers=bearer(token))
    refused(scoped, 403, "insufficient_scope")
    assert scoped.headers["www-authenticate"].endswith('scope="read write"')
    refused(client.get("/read", headers=bearer(verifier.issue("42", scope="reader"))), 403, "insufficient_scope")
    verifier.revoke(token)
    refused(client.get("/me", headers=bearer(token)), 401, "token_revoked")
    # Optional is not lenient: the client must refresh a bad token.
    refused(client.get("/maybe", headers=bearer(token)), 401, "token_revoked")
    verifier.available = False
    refused(client.get("/me", headers=bearer(verifier.issue("42"))), 503, "temporarily_unavailable")
    assert client.get("/public").status_code == 200


def test_revoking_a_user_spares_other_users(verifier: TestVerifier) -> None:
    alice, bob = verifier.issue("alice"), verifier.issue("bob")
    verifier.revoke_user("alice")
    with pytest.raises(sidegate.RevokedTokenError):
        verifier.check(alice)
    assert verifier.check(bob).sub == "bob"
    assert verifier.check(verifier.issue("alice")).sub == "alice"


def test_websockets_are_protected(client: TestClient, verifier: TestVerifier) -> None:
    with client.websocket_connect("/ws", headers=bearer(verifier.issue("42"))) as socket:
        assert socket.receive_text() == "42"
    with pytest.raises(Exception) as denied, client.websocket_connect("/ws"):  # noqa: PT011 - what Starlette's client makes of it
        pass
    assert getattr(denied.value, "status_code", 403) in (401, 403)


def test_status_and_headers_are_right_without_install(verifier: TestVerifier) -> None:
    app = make_app()
    app.state.sidegate_verifier = verifier
    answer = TestClient(app).get("/me")
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json() == {"detail": "No access token was sent"}


def test_mounted_application_sends_the_same_errors(verifier: TestVerifier) -> None:
    app, mounted = FastAPI(), make_app()
    app.mount("/sub", mounted)
    install(app, verifier)
    client = TestClient(app)
    refused(client.get("/sub/me"), 401, "token_missing")
    assert client.get("/sub/me", headers=bearer(verifier.issue("42"))).status_code == 200
    verifier.revoke_user("42")
    refused(client.get("/sub/me", headers=bearer(verifier.issue("42") + "x")), 401, "token_invalid")


def test_default_verifier_comes_from_the_environment(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERIFIER_SOCKET", str(tmp_path / "none.sock"))
    monkeypatch.setenv("ATTACH_SOCKET", str(tmp_path / "none.sock"))
    monkeypatch.setattr("sidegate.fastapi._default", None)
    app = make_app()
    install(app)
    refused(TestClient(app).get("/me", headers=bearer("a" * 40)), 503, "temporarily_unavailable")


def test_document_has_the_token_urls(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    flow = document["components"]["securitySchemes"]["Sidegate"]["flows"]["password"]
    assert flow["tokenUrl"] == "https://issuer.example/auth/login"
    assert flow["refreshUrl"] == "https://issuer.example/auth/refresh"
    paths = document["paths"]
    assert paths["/me"]["get"]["security"] == [{"Sidegate": []}]
    assert paths["/read"]["get"]["security"] == [{"Sidegate": ["read"]}]
    assert paths["/write"]["get"]["security"] == [{"Sidegate": ["read", "write"]}]
    assert paths["/all/things"]["get"]["security"] == [{"Sidegate": []}]
    assert "security" not in paths["/public"]["get"]
    assert set(paths["/public"]["get"]["responses"]) == {"200"}
    assert set(paths["/me"]["get"]["responses"]) == {"200", "401", "503"}
    assert set(paths["/write"]["get"]["responses"]) == {"200", "401", "403", "503"}
    assert paths["/auth/logout"]["servers"][0]["url"] == "https://issuer.example"
    assert "SidegateProblem" in document["components"]["schemas"]
    assert client.get("/openapi.json").json() == document


def test_install_again_only_changes_the_verifier(client: TestClient, verifier: TestVerifier) -> None:
    other = TestVerifier()
    app = client.app
    assert isinstance(app, FastAPI)
    install(app, other)
    refused(client.get("/me", headers=bearer(verifier.issue("1"))), 401, "token_invalid")
    assert client.get("/me", headers=bearer(other.issue("1"))).status_code == 200
    assert "/auth/logout" in client.get("/openapi.json").json()["paths"]


def starlette_app(verifier: TestVerifier) -> TestClient:
    async def who(request: Request) -> JSONResponse:
        return JSONResponse({"user": request.user.display_name, "known": request.user.is_authenticated})

    @requires("write")
    async def write(request: Request) -> JSONResponse:
        return JSONResponse(list(request.auth.scopes))

    async def ws(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text(socket.user.identity)
        await socket.close()

    routes = [Route("/", who), Route("/static/{name:path}", who), Route("/who", who), Route("/write", write)]
    guard = Middleware(SidegateMiddleware, verifier, public=["/", "/static/*"])
    return TestClient(Starlette(routes=[*routes, WebSocketRoute("/ws", ws)], middleware=[guard]))


def test_middleware_requires_a_token_except_on_public_paths(verifier: TestVerifier) -> None:
    client = starlette_app(verifier)
    token = verifier.issue("42", scope="read")
    assert client.get("/").json() == {"user": "", "known": False}
    assert client.get("/static/a/b.css").status_code == 200
    assert client.get("/", headers=bearer(token)).json() == {"user": "42", "known": True}
    for path in (
        "/who",
        "/write",
        "/static",
        "/staticx",
        "/nowhere",
        "/static//who",
        "/static/%2e%2e/who",
        "/static/../who",
    ):
        refused(client.get(path), 401, "token_missing")
    assert client.get("/who", headers=bearer(token)).json() == {"user": "42", "known": True}
    assert client.get("/write", headers=bearer(token)).status_code == 403
    writer = verifier.issue("42", scope="write")
    assert client.get("/write", headers=bearer(writer)).json() == ["authenticated", "write"]
    verifier.revoke(token)
    refused(client.get("/", headers=bearer(token)), 401, "token_revoked")
    verifier.available = False
    refused(client.get("/who", headers=bearer(writer)), 503, "temporarily_unavailable")


def test_middleware_protects_websockets(verifier: TestVerifier) -> None:
    client = starlette_app(verifier)
    with client.websocket_connect("/ws", headers=bearer(verifier.issue("42"))) as socket:
        assert socket.receive_text() == "42"
    with pytest.raises(WebSocketDisconnect) as denied, client.websocket_connect("/ws"):
        pass
    assert (denied.value.code, denied.value.reason) == (1008, "token_missing")
