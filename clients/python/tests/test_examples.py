"""Flask and Django REST framework, as in the examples: the same error responses as everywhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import django_app  # noqa: F401 - configures Django
import django_auth
import flask_app
import pytest
from django.test import Client as DjangoClient
from sidegate.testing import TestVerifier

Get = Callable[[str, "str | None"], Any]


class Answer:
    def __init__(self, status: int, headers: Any, body: Any) -> None:
        self.status, self.headers, self.body = status, headers, body


@pytest.fixture
def verifier() -> TestVerifier:
    return TestVerifier()


@pytest.fixture(params=["flask", "django"])
def get(request: pytest.FixtureRequest, verifier: TestVerifier, monkeypatch: pytest.MonkeyPatch) -> Get:
    monkeypatch.setattr(flask_app, "verifier", verifier)
    monkeypatch.setattr(django_auth, "verifier", verifier)

    def flask(path: str, token: str | None) -> Answer:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        answer = flask_app.app.test_client().get(path, headers=headers)
        return Answer(answer.status_code, answer.headers, answer.get_json(silent=True, force=True))

    def django(path: str, token: str | None) -> Answer:
        answer = DjangoClient().get(path, HTTP_AUTHORIZATION=f"Bearer {token}" if token else "")
        return Answer(answer.status_code, answer.headers, answer.json())

    return {"flask": flask, "django": django}[request.param]


def refused(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.body["code"]) == (status, code)
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert ("WWW-Authenticate" in answer.headers) == (status != 503)


def test_example_protects_its_routes(get: Get, verifier: TestVerifier) -> None:
    assert get("/", None).status == 200
    refused(get("/me", None), 401, "token_missing")
    refused(get("/notes", None), 401, "token_missing")
    refused(get("/me", "junk"), 401, "token_invalid")
    token = verifier.issue("42", scope="read")
    assert get("/me", token).body == {"user": "42"}
    assert get("/notes", token).body == ["Logout means logout"]
    refused(get("/notes", verifier.issue("42", scope="write")), 403, "insufficient_scope")
    refused(get("/me", verifier.issue("42", expires_in=-1)), 401, "token_expired")
    verifier.revoke(token)
    refused(get("/me", token), 401, "token_revoked")
    verifier.available = False
    refused(get("/me", token), 503, "temporarily_unavailable")
