"""Flask over the same verifier: a decorator and an error handler. Run: `flask --app flask_app run`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import sidegate
from flask import Flask, Response, g, jsonify, request

app = Flask(__name__)
verifier = sidegate.Verifier()


def require_user(*scopes: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Puts the request's token into `g.user`, or rejects the request."""

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(view)
        def protected(*args: Any, **kwargs: Any) -> Any:
            # What `request.headers` reads, without making that object first.
            g.user = verifier.check_authorization(request.environ.get("HTTP_AUTHORIZATION"), scopes)
            return view(*args, **kwargs)

        return protected

    return decorate


@app.errorhandler(sidegate.SidegateError)
def refuse(error: sidegate.SidegateError) -> Response:
    response = jsonify(error.problem())
    response.status_code = error.status
    response.headers.update(error.headers)
    response.mimetype = "application/problem+json"
    return response


@app.get("/")
def public() -> str:
    return "public"


@app.get("/me")
@require_user()
def me() -> dict[str, str]:
    return {"user": g.user.sub}


@app.get("/notes")
@require_user("read")
def notes() -> list[str]:
    return ["Logout means logout"]
