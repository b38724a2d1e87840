"""The reasons for rejection: PyJWT's exceptions, extended where PyJWT has none.

Each has the HTTP response that Sidegate's own services send for it (docs/errors.md): `status`, `headers`
and `problem()`, the body of type `application/problem+json`.
"""

from __future__ import annotations

from typing import Any, ClassVar

PROBLEM_MEDIA_TYPE = "application/problem+json"


class SidegateError(Exception):
    """Base of all errors: the token is rejected, or could not be checked."""

    status: ClassVar[int] = 401
    code: ClassVar[str] = "token_invalid"
    error: ClassVar[str] = "invalid_token"
    title: ClassVar[str] = "The access token is not valid"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title

    @property
    def challenge(self) -> str | None:
        """The value of `WWW-Authenticate` (RFC 6750, section 3) for the status."""
        return f'Bearer error="{self.error}", error_description="{self.title}"'

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the HTTP response, without its content type."""
        challenge = self.challenge
        return {"Cache-Control": "no-store"} | ({"WWW-Authenticate": challenge} if challenge else {})

    def problem(self) -> dict[str, Any]:
        """The body of the HTTP response: RFC 9457 problem details that are also an RFC 6749 error."""
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
    """The token is invalid. Base of all faults of a token."""


class DecodeError(InvalidTokenError):
    """The token is malformed."""


class InvalidSignatureError(DecodeError):
    """The signature does not match the key."""


class InvalidKeyError(InvalidTokenError):
    """The key does not exist, or is for another algorithm."""


class InvalidIssuerError(InvalidTokenError):
    """The token has another issuer."""


class InvalidAudienceError(InvalidTokenError):
    """The token is for another audience."""


class ImmatureSignatureError(InvalidTokenError):
    """The token is not valid yet."""


class MissingRequiredClaimError(InvalidTokenError):
    """A claim is missing or invalid."""


class ExpiredSignatureError(InvalidTokenError):
    """The token has expired."""

    code = "token_expired"
    title = "The access token has expired"


class RevokedTokenError(InvalidTokenError):
    """The token, its session, its user's tokens or its key has been revoked."""

    code = "token_revoked"
    title = "The access token has been revoked"


class MissingTokenError(SidegateError):
    """The request has no token."""

    code = "token_missing"
    title = "No access token was sent"

    @property
    def challenge(self) -> str | None:
        return "Bearer"


class InsufficientScopeError(SidegateError):
    """The token is good, but lacks a scope."""

    status = 403
    code = "insufficient_scope"
    error = "insufficient_scope"
    title = "The access token does not allow this"

    def __init__(self, detail: str = "", *, required: str = "") -> None:
        super().__init__(detail or (f"the access token lacks the scope {required}" if required else ""))
        self.required = required

    @property
    def challenge(self) -> str | None:
        return f'{super().challenge}, scope="{_printable(self.required)}"' if self.required else super().challenge


class VerifierUnavailableError(SidegateError):
    """The daemon could not be reached, so the token was not checked. Never accept the token."""

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
        # A client must not see errors between this process and its daemon.
        return {**super().problem(), "detail": self.title, "error_description": self.title}


class StaleError(VerifierUnavailableError):
    """The token was not checked: the daemon's list of revocations may be out of date."""

    code = "stale"
    title = "The list of revoked tokens may be out of date"


_BY_CODE: dict[str, type[SidegateError]] = {
    error.code: error
    for error in (InvalidTokenError, ExpiredSignatureError, RevokedTokenError, MissingTokenError, StaleError)
}

# The daemon's code for all of these is `token_invalid`; its detail text distinguishes them.
_BY_DETAIL: dict[str, type[SidegateError]] = {
    "the signature is wrong": InvalidSignatureError,
    "no key has this kid and alg": InvalidKeyError,
    "the issuer (iss) is not accepted": InvalidIssuerError,
    "the audience (aud) is not accepted": InvalidAudienceError,
    "not valid yet (iat or nbf)": ImmatureSignatureError,
    "not a compact JWS": DecodeError,
    "the token is too long": DecodeError,
    "the header is malformed or has members that are not allowed": DecodeError,
}


def refusal(code: str, detail: str, required: str = "") -> SidegateError:
    """The exception for a code of the daemon."""
    if code == InvalidTokenError.code:
        claim = detail.startswith("claim ")
        return MissingRequiredClaimError(detail) if claim else _BY_DETAIL.get(detail, InvalidTokenError)(detail)
    if code == InsufficientScopeError.code:
        return InsufficientScopeError(required=required)
    known = _BY_CODE.get(code)
    # An unknown code neither accepts a token nor proves it invalid.
    return VerifierUnavailableError(detail) if known is None else known(detail)


def _printable(text: str) -> str:
    """RFC 6749, section 5.2 allows `%x20-21 / %x23-5B / %x5D-7E` in descriptions."""
    text = text.replace('"', "'").replace("\\", "/")
    return "".join(letter if " " <= letter <= "~" else "?" for letter in text)
