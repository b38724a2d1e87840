"""Finds a request's access token (RFC 6750, section 2.1), by the daemon's rules."""

from __future__ import annotations

from collections.abc import Iterable

from sidegate.errors import InvalidTokenError, MissingTokenError


def bearer_token(authorization: str | Iterable[str] | None) -> str:
    """The token in the values of `Authorization`: one value, or all of them where the framework separates them.

    Raises `MissingTokenError` if there is no bearer token, `InvalidTokenError` if it is not exactly one.
    """
    if authorization is None:
        raise MissingTokenError
    values = [authorization] if isinstance(authorization, str) else list(authorization)
    if len(values) > 1:
        raise InvalidTokenError("two Authorization headers")
    scheme, _, token = values[0].partition(" ") if values else ("", "", "")
    if scheme.lower() != "bearer":
        # Another scheme has no bearer token, but a proxy may have joined two headers with a comma.
        if values and "," in values[0] and "bearer" in values[0].lower():
            raise InvalidTokenError("two Authorization headers")
        raise MissingTokenError
    token = token.lstrip(" ")
    if not token:
        raise MissingTokenError
    if not all("!" <= letter <= "~" and letter != "," for letter in token):
        raise InvalidTokenError("more than one token, or invalid characters")
    return token
