"""Why a token is not accepted: PyJWT's tree of exceptions, continued where PyJWT ends.

Each knows the HTTP answer that says the same, as Sidegate's own services give it (docs/errors.md): `status`, `headers`
and `problem()`, the body of type `application/problem+json`.
"""

from __future__ import annotations

from typing import Any, ClassVar

PROBLEM_MEDIA_TYPE = "application/problem+json"


class SidegateError(Exception):
    """Any refusal, and the inability to tell."""

    status: ClassVar[int] = 401
    code: ClassVar[str] = "token_invalid"
    error: ClassVar[str] = "invalid_token"
    title: ClassVar[str] = "The access token is not valid"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title

    @property
    def challenge(self) -> str | None:
        """The value of `WWW-Authenticate` (RFC 6750, section 3) that belongs to the status."""
        return f'Bearer error="{self.error}", error_description="{self.title}"'

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the HTTP answer, but for its content type."""
        challenge = self.challenge
        return {"Cache-Control": "no-store"} | ({"WWW-Authenticate": challenge} if challenge else {})

    def problem(self) -> dict[str, Any]:
        """The body of the HTTP answer: RFC 9457 problem details that are also an RFC 6749 error."""
        return {
            "type": f"urn:sidegate:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "error": self.error,
            "error_description": _printable(self.detail),
            "code": self.code,
        }


class InvalidTokenError(SidegateError):
    """The token is not good. Base of all that is wrong with a token that came."""


class DecodeError(InvalidTokenError):
    """It has not the form of a token."""


class InvalidSignatureError(DecodeError):
    """The signature is not that of the key."""


class InvalidKeyError(InvalidTokenError):
    """There is no such key, or not for this algorithm."""


class InvalidIssuerError(InvalidTokenError):
    """Somebody else issued it."""


class InvalidAudienceError(InvalidTokenError):
    """It is meant for somebody else."""


class ImmatureSignatureError(InvalidTokenError):
    """Its time has not come."""


class MissingRequiredClaimError(InvalidTokenError):
    """A claim is missing, or not as it must be."""


class ExpiredSignatureError(InvalidTokenError):
    """Its time is over."""

    code = "token_expired"
    title = "The access token has expired"


class RevokedTokenError(InvalidTokenError):
    """It was good until it, its session, its user or its key was revoked."""

    code = "token_revoked"
    title = "The access token has been revoked"


class MissingTokenError(SidegateError):
    """No token came."""

    code = "token_missing"
    title = "No access token was sent"

    @property
    def challenge(self) -> str | None:
        return "Bearer"


class InsufficientScopeError(SidegateError):
    """The token is good, but not for this."""

    status = 403
    code = "insufficient_scope"
    error = "insufficient_scope"
    title = "The access token does not allow this"

    def __init__(self, detail: str = "", *, required: str = "") -> None:
        super().__init__(detail)
        self.required = required

    @property
    def challenge(self) -> str | None:
        return f'{super().challenge}, scope="{_printable(self.required)}"' if self.required else super().challenge


class VerifierUnavailableError(SidegateError):
    """The daemon could not be asked, so the token was not checked. Never treat this as a yes."""

    status = 503
    code = "temporarily_unavailable"
    error = "temporarily_unavailable"
    title = "The service cannot answer right now"

    @property
    def challenge(self) -> str | None:
        return None

    @property
    def headers(self) -> dict[str, str]:
        return {**super().headers, "Retry-After": "1"}

    def problem(self) -> dict[str, Any]:
        # What is wrong between this process and its daemon is nothing that a client should read.
        return {**super().problem(), "detail": self.title, "error_description": self.title}


class StaleError(VerifierUnavailableError):
    """The token was not checked: the daemon's list of revocations may be out of date."""

    code = "stale"
    title = "The list of revoked tokens may be out of date"


_BY_CODE: dict[str, type[SidegateError]] = {
    error.code: error
    for error in (InvalidTokenError, ExpiredSignatureError, RevokedTokenError, MissingTokenError, StaleError)
}

# The daemon's code for all of these is `token_invalid`; what it adds for people tells which.
_BY_DETAIL: dict[str, type[SidegateError]] = {
    "the signature is wrong": InvalidSignatureError,
    "no such key for this algorithm": InvalidKeyError,
    "another issuer": InvalidIssuerError,
    "another audience": InvalidAudienceError,
    "not valid yet": ImmatureSignatureError,
    "not a compact JWS": DecodeError,
    "the token is too long": DecodeError,
    "the header is malformed or has members that are not allowed": DecodeError,
}


def refusal(code: str, detail: str, required: str = "") -> SidegateError:
    """The exception for one of the daemon's codes."""
    if code == InvalidTokenError.code:
        claim = detail.startswith("claim ")
        return MissingRequiredClaimError(detail) if claim else _BY_DETAIL.get(detail, InvalidTokenError)(detail)
    if code == InsufficientScopeError.code:
        return InsufficientScopeError(required=required)
    known = _BY_CODE.get(code)
    # An unknown code is no reason to let anybody in, nor to say that the token is bad.
    return VerifierUnavailableError(detail) if known is None else known(detail)


def _printable(text: str) -> str:
    """RFC 6749, section 5.2 allows `%x20-21 / %x23-5B / %x5D-7E` in descriptions."""
    text = text.replace('"', "'").replace("\\", "/")
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)
