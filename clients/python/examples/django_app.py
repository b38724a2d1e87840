"""A Django REST framework application in one file. Run: `python django_app.py runserver`."""

from __future__ import annotations

import sys
from typing import Any

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.urls import path

settings.configure(
    DEBUG=False,
    SECRET_KEY="not used: this application has no cookies",
    ALLOWED_HOSTS=["127.0.0.1", "localhost", "testserver"],
    ROOT_URLCONF=__name__,
    REST_FRAMEWORK={
        "DEFAULT_AUTHENTICATION_CLASSES": ["django_auth.SidegateAuthentication"],
        "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
        "EXCEPTION_HANDLER": "django_auth.refuse",
        "UNAUTHENTICATED_USER": None,
    },
)
application = get_wsgi_application()

# These need Django to be set up.
from django_auth import HasScopes  # noqa: E402
from rest_framework.permissions import AllowAny, IsAuthenticated  # noqa: E402
from rest_framework.response import Response  # noqa: E402
from rest_framework.views import APIView  # noqa: E402


class Public(APIView):  # type: ignore[misc]
    permission_classes = [AllowAny]

    def get(self, request: Any) -> Any:
        return Response("public")


class Me(APIView):  # type: ignore[misc]
    def get(self, request: Any) -> Any:
        return Response({"user": request.user.pk})


class Notes(APIView):  # type: ignore[misc]
    permission_classes = [IsAuthenticated, HasScopes]
    scopes = ["read"]

    def get(self, request: Any) -> Any:
        return Response(["Logout means logout"])


urlpatterns = [path("", Public.as_view()), path("me", Me.as_view()), path("notes", Notes.as_view())]

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
