"""The web server: one page, one websocket, the files that were written; and who is let in.

Nothing a client sends becomes a path: pages and files are looked up in tables made here. The Host must be this
machine by a number or a name it has, so that no foreign name can be made to point here; the Origin of a websocket
must be the page's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import mimetypes
import secrets
import socket
import time
from collections.abc import Iterator
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from tokendream.play.commands import LARGEST, parse
from tokendream.play.hub import Hub, Viewer
from tokendream.play.runner import SessionRunner
from tokendream.play.view import PlayError

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

GARBAGE = 20.0
"""How many messages one that means nothing counts for."""

SEND_BUFFER = 128 * 1024
"""Bytes the system may hold for a viewer that does not read: a few pictures, not seconds of them."""


class Access:
    """Decides who is let in, by Host, Origin and token."""

    def __init__(self, host: str, token: str | None) -> None:
        self._names = {"localhost", host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}
        self._token = token

    def refusal(self, connection: HTTPConnection, *, page: bool = False) -> str | None:
        """Why a request is refused; None where it is not. The page's own scripts need no token: they hold nothing."""
        host = connection.headers.get("host", "")
        if not self._known(host):
            return "this address is not known by that name: use its number, or localhost"
        if connection.scope["type"] == "websocket":
            origin = urlsplit(connection.headers.get("origin", ""))
            if origin.scheme not in ("http", "https") or origin.netloc.lower() != host.lower():
                return "a websocket is opened by the page served here only"
        if self._token is not None and not page:
            given = connection.query_params.get("token", "")
            if not secrets.compare_digest(given.encode(), self._token.encode()):
                return "the address needs the token that the server printed: ?token=..."
        return None

    def _known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or _address(name) is not None


def application(hub: Hub, runner: SessionRunner, access: Access) -> Starlette:
    """The routes."""
    pages = {file.name: file.read_bytes() for file in (resources.files("tokendream.play") / "page").iterdir()}

    def refused(why: str) -> Response:
        return PlainTextResponse(f"{why}\n", 403, HEADERS)

    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if why := access.refusal(request, page=name != "index.html"):
            return refused(why)
        if name not in pages:
            return PlainTextResponse("there is no such page\n", 404, HEADERS)
        return Response(pages[name], 200, HEADERS, mimetypes.guess_type(name)[0])

    async def file(request: Request) -> Response:
        if why := access.refusal(request):
            return refused(why)
        path = runner.files.get(request.path_params["name"])
        if path is None or not path.is_file():
            return PlainTextResponse("there is no such file\n", 404, HEADERS)
        return FileResponse(path, filename=path.name, headers=HEADERS)

    async def watch(socket: WebSocket) -> None:
        if access.refusal(socket):
            await socket.close(1008)  # before it is accepted: the client sees 403
            return
        await socket.accept()
        viewer = hub.join()
        if viewer is None:
            await socket.close(1013, "too many viewers")
            return
        sending = asyncio.create_task(_send(socket, viewer))
        try:
            await _receive(socket, viewer, hub, runner)
        finally:
            hub.leave(viewer)
            sending.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await sending

    return Starlette(
        routes=[Route("/", page), Route("/files/{name}", file), Route("/{name}", page), WebSocketRoute("/ws", watch)]
    )


async def _send(socket: WebSocket, viewer: Viewer) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):  # the viewer is gone: `_receive` notices
        while True:
            await socket.send_text(await viewer.outgoing.get())


async def _receive(socket: WebSocket, viewer: Viewer, hub: Hub, runner: SessionRunner) -> None:
    """Obey a viewer until it is gone, or says more than it may."""
    while (message := await socket.receive())["type"] != "websocket.disconnect":
        cost = 1.0
        try:
            command, arguments = parse(message.get("text") or "")
            obey(command, arguments, viewer, hub, runner)
        except PlayError as error:
            cost = GARBAGE
            viewer.tell(str(error))
        if not viewer.allows(cost, time.monotonic()):
            await socket.close(1008, "too many messages")
            return


def obey(command: str, arguments: list[Any], viewer: Viewer, hub: Hub, runner: SessionRunner) -> None:
    """Do what a viewer says, or have the runner do it if the viewer holds the controls."""
    if command == "ack":
        viewer.acknowledge(*arguments)
    elif command == "release":
        hub.release(viewer)
    elif not (hub.take(viewer) if command == "take" else hub.use(viewer)):
        viewer.tell("somebody else holds the controls")
    elif command != "take":
        runner.submit(command, *arguments)


class Server(uvicorn.Server):
    """uvicorn with sockets that hold little. Signals are left to the caller."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def serve(app: Starlette, listening: socket.socket) -> Server:
    """A server for an open socket, to be run by `await server.serve(sockets=[listening])`."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    config = uvicorn.Config(
        app,
        log_config=None,  # or it closes the handlers of others, and absl's takes standard error with it
        log_level="error",
        access_log=False,
        server_header=False,
        lifespan="off",
        ws="websockets-sansio",
        ws_max_size=LARGEST,
        ws_per_message_deflate=False,  # pictures are PNG
        timeout_graceful_shutdown=2,
        limit_concurrency=256,
    )
    return Server(config)


def listen(host: str, port: int, tries: int = 50) -> socket.socket:
    """A listening socket at this port, or at the first free one after it. Raises OSError where there is none."""
    for candidate in range(port, min(port + tries, 65536)):
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host, candidate), family=family, backlog=64)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or candidate == port + tries - 1:
                raise OSError(f"cannot listen at {host}, port {candidate}: {error.strerror}") from None
    raise OSError(f"no free port from {port} on")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server bound to this host."""
    address = _address(host)
    return host.lower() == "localhost" or (address is not None and address.is_loopback)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """A host that is a number."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host)
    return None
