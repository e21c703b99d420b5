"""Limits on requests: only from the page itself, and no more and no larger ones than the machine can take."""

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bcos_cli.serve.address import Address
from bcos_cli.serve.uploads import Limits, make_room

_READING = ("GET", "HEAD", "OPTIONS")
_REFUSED_PATHS = ("/deep_link",)
"""Addresses that Gradio serves and the page does not need, as they write files."""
_IDLE, _LONGEST = 10.0, 120.0
"""Seconds for which a request may send nothing, and in which it must have sent its body."""
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
"""Browsers load nothing from elsewhere, and send nothing there; Gradio's own scripts need the two unsafe keywords."""


@dataclass(frozen=True)
class SecurityHeaders:
    """Adds the headers to every response."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self.app(scope, receive, sending)


@dataclass(frozen=True)
class OwnPageOnly:
    """Refuses requests that other pages make a browser send.

    A page elsewhere can point its own name at this machine (DNS rebinding): then the header Host is not ours. Or it
    can send a request to this page: then Origin and Sec-Fetch-Site say so. Programs other than browsers send neither.
    """

    app: ASGIApp
    address: Address

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http" and (problem := self._problem(scope["method"], Headers(scope=scope))) is not None:
            await PlainTextResponse(problem, 403)(scope, receive, send)
        elif scope["type"] == "websocket":  # the page has none
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self.app(scope, receive, send)

    def _problem(self, method: str, headers: Headers) -> str | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self.address.answers_to(hosts[0]):
            return f"this page is at {self.address.url}, not at {', '.join(hosts) or 'an address without a name'}"
        if method in _READING:
            return None
        origins, sites = headers.getlist("origin"), headers.getlist("sec-fetch-site")
        is_own = all(map(self.address.is_origin, origins)) and set(sites) <= {"same-origin", "none"}
        return None if is_own else "only the page itself may send anything here"


@dataclass
class BoundedUploads:
    """Bounds the body of every request, the number of uploads, and the space that they take."""

    app: ASGIApp
    folder: Path
    """Where uploads of this page alone are kept; the oldest are deleted to make room for new ones."""
    limits: Limits
    uploading: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        body = _Body(receive, send, self.limits.request_bytes)
        is_upload = scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload")
        try:
            if scope["path"].rstrip("/").endswith(_REFUSED_PATHS):
                raise _RefusedError(404, "there is nothing here")
            body.check(Headers(scope=scope).get("content-length"))
            if not is_upload:
                await self.app(scope, body.receive, body.send)
                return
            if self.uploading >= self.limits.parallel:
                raise _RefusedError(503, f"{self.uploading} files are being uploaded already; try again")
            self.uploading += 1
            try:
                room = self.limits.total_bytes - self.uploading * self.limits.request_bytes
                await asyncio.to_thread(make_room, self.folder, room)
                await self.app(scope, body.receive, body.send)
            finally:
                self.uploading -= 1
        except _RefusedError as refused:
            if body.is_answered:
                raise
            status, message = refused.args
            await PlainTextResponse(message, status, {"Connection": "close"})(scope, receive, send)


class _RefusedError(Exception):
    """A request is refused; its arguments are the status of HTTP and a message."""


@dataclass
class _Body:
    """The body of one request, part by part."""

    _receive: Receive
    _send: Send
    _limit: int
    is_answered: bool = False
    _received: int = 0
    _is_complete: bool = False
    _deadline: float = field(default_factory=lambda: time.monotonic() + _LONGEST)

    def check(self, announced: str | None) -> None:
        """Refuse a body whose announced length, if there is one, is too large."""
        if announced is not None and announced.isdecimal() and (len(announced) > 15 or int(announced) > self._limit):
            raise self._too_large()

    async def receive(self) -> Message:
        """Receive the next part, or the message that the client has gone."""
        if self._is_complete:
            return await self._receive()
        patience = min(_IDLE, self._deadline - time.monotonic())
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, patience))
        except TimeoutError as reason:
            raise _RefusedError(408, "the request arrived too slowly; try again") from reason
        self._received += len(message.get("body", b""))
        if self._received > self._limit:
            raise self._too_large()
        self._is_complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer."""
        self.is_answered = True
        await self._send(message)

    def _too_large(self) -> _RefusedError:
        return _RefusedError(413, f"at most {self._limit / 2**20:.1f} MB are accepted at a time")
