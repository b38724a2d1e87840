"""Notes: an application with its own users, who log in at Sidegate's issuer; tokens are checked in process."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated, Any, Optional

from fastapi import Depends, HTTPException, Security
from fastapi_offline import FastAPIOffline  # FastAPI, with the docs page's assets served from here instead of a CDN
from pydantic import BaseModel, Field
from sidegate import Token
from sidegate.fastapi import install, optional_user, require, require_user

app = FastAPIOffline(title="Notes", redoc_url=None)
install(app, issuer_url=os.environ.get("ISSUER_URL"))


def database() -> Iterator[sqlite3.Connection]:
    """The application's own database; the issuer reads the same `users` table."""
    with closing(sqlite3.connect(os.environ["APP_DATABASE"], check_same_thread=False)) as connection:
        connection.row_factory = sqlite3.Row
        yield connection


Database = Annotated[sqlite3.Connection, Depends(database)]
User = Annotated[Token, Depends(require_user)]


class Note(BaseModel):
    text: str = Field(min_length=1, max_length=500)


@app.get("/")
def welcome(user: Annotated[Optional[Token], Depends(optional_user)]) -> dict[str, str]:  # noqa: UP045 - Python 3.9
    """Public; greets an authenticated user by name."""
    return {"message": f"Welcome, user {user.sub}" if user else "Welcome, whoever you are"}


@app.get("/me")
def me(user: User, db: Database) -> dict[str, Any]:
    """Protected: the user's own row."""
    row = db.execute("SELECT id, email, name FROM users WHERE id = ?", (user.sub,)).fetchone()
    if row is None:
        raise HTTPException(404, "This account is gone")
    return {**row, "session": user.sid, "scopes": user.scopes}


@app.get("/notes", dependencies=[Security(require_user, scopes=["read"])])
def notes(db: Database) -> list[dict[str, Any]]:
    """Protected, with a scope, the way FastAPI spells it."""
    return [dict(row) for row in db.execute("SELECT author, text FROM notes ORDER BY id")]


@app.post("/notes", status_code=201)
def write(note: Note, user: Annotated[Token, Depends(require("read", "write"))], db: Database) -> Note:
    """Protected, with two scopes, the short way."""
    with db:
        db.execute("INSERT INTO notes (author, text) VALUES (?, ?)", (user.sub, note.text))
    return note
