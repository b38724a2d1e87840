"""An application whose routes stay open, for the tests of watches: by FastAPI's helpers, and behind the middleware."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

import sidegate
from fastapi import Depends, FastAPI, Request, WebSocket
from sidegate.fastapi import install, require_user, until_ended, watch
from sidegate.starlette import SidegateMiddleware
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute

User = Annotated[sidegate.Token, Depends(require_user)]
app = FastAPI()
install(app)


async def ticks() -> AsyncIterator[str]:
    number = 0
    while True:
        yield f"data: {number}\n\n"
        number += 1
        await asyncio.sleep(0.005)


@app.get("/events")
async def events(request: Request, user: User) -> StreamingResponse:
    return StreamingResponse(until_ended(request, user, ticks()), media_type="text/event-stream")


@app.websocket("/ws")
async def ws(socket: WebSocket, user: User) -> None:
    await socket.accept()
    async with watch(socket, user):
        async for text in socket.iter_text():
            await socket.send_text(text)


# The same without a word of it in the routes.
async def plain_events(request: Request) -> StreamingResponse:
    return StreamingResponse(ticks(), media_type="text/event-stream")


async def plain(request: Request) -> PlainTextResponse:
    return PlainTextResponse("plain")


async def plain_ws(socket: WebSocket) -> None:
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)


app.mount(
    "/behind",
    Starlette(
        routes=[Route("/plain", plain), Route("/events", plain_events), WebSocketRoute("/ws", plain_ws)],
        middleware=[Middleware(SidegateMiddleware, watch=True)],
    ),
)
