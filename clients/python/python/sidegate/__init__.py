"""Checks access tokens, including their revocation.

>>> verifier = Verifier()                    # doctest: +SKIP
>>> token = verifier.check("eyJ...")         # doctest: +SKIP
>>> token.sub, token["scope"]                # doctest: +SKIP

The map: `Verifier` checks, `Token` is a good token, `errors` has the reasons for rejection. `sidegate.fastapi` and
`sidegate.starlette` protect routes, `sidegate.httpx` gets tokens, `sidegate.testing` tests applications without a
daemon.
"""

from sidegate._native import Token, bearer_token
from sidegate.errors import (
    DecodeError,
    ExpiredSignatureError,
    ImmatureSignatureError,
    InsufficientScopeError,
    InvalidAudienceError,
    InvalidIssuerError,
    InvalidKeyError,
    InvalidSignatureError,
    InvalidTokenError,
    MissingRequiredClaimError,
    MissingTokenError,
    RevokedTokenError,
    SidegateError,
    StaleError,
    VerifierUnavailableError,
)
from sidegate.verifier import TokenVerifier, Verifier, require_scopes
from sidegate.watch import Watch

__all__ = [
    "DecodeError",
    "ExpiredSignatureError",
    "ImmatureSignatureError",
    "InsufficientScopeError",
    "InvalidAudienceError",
    "InvalidIssuerError",
    "InvalidKeyError",
    "InvalidSignatureError",
    "InvalidTokenError",
    "MissingRequiredClaimError",
    "MissingTokenError",
    "RevokedTokenError",
    "SidegateError",
    "StaleError",
    "Token",
    "TokenVerifier",
    "Verifier",
    "VerifierUnavailableError",
    "Watch",
    "bearer_token",
    "require_scopes",
]
