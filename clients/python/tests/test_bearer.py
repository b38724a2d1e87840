"""The token in a request, and the error responses on the wire."""

from __future__ import annotations

import pytest
from sidegate import (
    ExpiredSignatureError,
    InsufficientScopeError,
    InvalidTokenError,
    MissingTokenError,
    SidegateError,
    StaleError,
    VerifierUnavailableError,
    bearer_token,
)


@pytest.mark.parametrize("value", ["Bearer a.b.c", "bearer a.b.c", "BEARER  a.b.c", ["Bearer a.b.c"]])
def test_scheme_is_case_insensitive(value: str | list[str]) -> None:
    assert bearer_token(value) == "a.b.c"


@pytest.mark.parametrize("value", [None, "", [], "Bearer", "Bearer ", "Basic YTpi", "a.b.c", "Bearerx a.b.c"])
def test_no_bearer_token(value: str | list[str] | None) -> None:
    with pytest.raises(MissingTokenError):
        bearer_token(value)


@pytest.mark.parametrize(
    "value",
    [
        "Bearer a,bearer b",
        "Bearer a b",
        "Bearer a ",
        "Bearer é",
        "Bearer \ta.b.c",
        "Bearer \t",
        "Basic x, Bearer y",
        ["Bearer a", "Bearer a"],
    ],
)
def test_more_or_less_than_one_token_is_an_error(value: str | list[str]) -> None:
    with pytest.raises(InvalidTokenError):
        bearer_token(value)


def test_problems_are_rfc_9457_and_rfc_6749() -> None:
    assert InvalidTokenError('a "b" é').problem() == {
        "type": "urn:sidegate:error:token_invalid",
        "title": "The access token is not valid",
        "status": 401,
        "detail": 'a "b" é',
        "error": "invalid_token",
        "error_description": "a 'b' ?",
        "code": "token_invalid",
    }
    hidden = VerifierUnavailableError("connection to /run/secret.sock refused").problem()
    assert "/run" not in str(hidden)


@pytest.mark.parametrize(
    ("error", "status", "challenge"),
    [
        (MissingTokenError(), 401, "Bearer"),
        (
            ExpiredSignatureError(),
            401,
            'Bearer error="invalid_token", error_description="The access token has expired"',
        ),
        (
            InsufficientScopeError(required="read write"),
            403,
            'Bearer error="insufficient_scope", '
            'error_description="The access token does not allow this", scope="read write"',
        ),
        (VerifierUnavailableError(), 503, None),
        (StaleError(), 503, None),
    ],
)
def test_challenges_follow_rfc_6750(error: SidegateError, status: int, challenge: str | None) -> None:
    assert error.status == status
    assert error.headers.get("WWW-Authenticate") == challenge
    assert error.headers["Cache-Control"] == "no-store"
    assert error.headers.get("Retry-After") == ("1" if status == 503 else None)
