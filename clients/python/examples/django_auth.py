"""Django REST framework: an authentication class, a permission and an exception handler over Sidegate's verifier."""

from __future__ import annotations

from typing import Any

import sidegate
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import NotAuthenticated
from rest_framework.permissions import BasePermission
from rest_framework.response import Response

verifier = sidegate.Verifier()


class User:
    """The authenticated user. An application would load its own user by `token.sub` instead."""

    is_authenticated = True

    def __init__(self, token: sidegate.Token) -> None:
        self.pk = token.sub


class SidegateAuthentication(BaseAuthentication):  # type: ignore[misc]
    """`request.user` is the user, `request.auth` the token."""

    def authenticate(self, request: Any) -> tuple[User, sidegate.Token] | None:
        try:
            token = verifier.check_authorization(request.META.get("HTTP_AUTHORIZATION"))
        except sidegate.MissingTokenError:
            return None
        return User(token), token

    def authenticate_header(self, request: Any) -> str:
        return "Bearer"


class HasScopes(BasePermission):  # type: ignore[misc]
    """Requires the view's scopes, such as `scopes = ["read"]`. Put it after `IsAuthenticated`."""

    def has_permission(self, request: Any, view: Any) -> bool:
        sidegate.require_scopes(request.auth, view.scopes)
        return True


def refuse(error: Exception, context: dict[str, Any]) -> Any:
    """Renders Sidegate's errors, and that of a request without a token, as problem documents."""
    from rest_framework.views import exception_handler  # it imports the settings that name this function

    if isinstance(error, NotAuthenticated):
        error = sidegate.MissingTokenError()
    if not isinstance(error, sidegate.SidegateError):
        return exception_handler(error, context)
    return Response(error.problem(), error.status, headers=error.headers, content_type="application/problem+json")
