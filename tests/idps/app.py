"""The application behind FastAPI: says who the user is, and which issuer says so."""

from __future__ import annotations

from fastapi import Depends, FastAPI
from sidegate import Token
from sidegate.fastapi import install, require_user

app = FastAPI()
install(app)


@app.get("/")
def who(user: Token = Depends(require_user)) -> dict[str, str]:  # noqa: B008
    return {"subject": user.sub, "issuer": user.issuer}
