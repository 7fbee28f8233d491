"""How the page is served: under which names, with which headers, and how a container asks whether it is healthy."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping
from typing import Any

import gradio as gr
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .inputs import MOST_UPLOAD_BYTES
from .theme import CSS, theme

HEALTH = "/health"
# gradio keeps what the page last showed, megabytes, for so many sessions, whether they are still open or not. Nothing
# here needs it: a session that it forgot goes on.
MOST_SESSIONS = 16
# gradio's page has inline scripts, and builds the viewers' with `new Function`. Nothing may come from elsewhere.
_HEADERS = {
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self'"
    " 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:;"
    " object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self' https://huggingface.co",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class HostGuard:
    """Refuses requests under foreign names, and sets the headers that protect a page.

    A page of someone else can make its own name point to this machine (DNS rebinding) and read what the demo answers;
    the Host header then holds that name. Addresses in digits cannot be rebound, so they are always allowed.

    Args:
        app: what is guarded.
        allowed_hosts: names that are allowed beside this machine's own; "*" allows all.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Iterable[str] = ()) -> None:
        self.app = app
        names = {"localhost", socket.gethostname(), socket.getfqdn(), *allowed_hosts}
        self.allowed_hosts = {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, as ASGI wants it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        if not self._is_allowed(Headers(scope=scope).get("host", "")):
            refusal = PlainTextResponse(
                "This host name is not allowed. Open the demo by its address, or start it with --allowed-host NAME.",
                status_code=421,
            )
            await refusal(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _is_allowed(self, host: str) -> bool:
        if "*" in self.allowed_hosts:
            return True
        name = host.rsplit("]", 1)[0].strip("[") if host.startswith("[") else host.rsplit(":", 1)[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower() in self.allowed_hosts
        return True


async def _health(_: Request) -> JSONResponse:
    """Says that the server answers, which it does only after the model is loaded."""
    return JSONResponse({"status": "ok"})


def launch_options(host: str, port: int | None, allowed_hosts: Iterable[str] = ()) -> Mapping[str, Any]:
    """The arguments of `gr.Blocks.launch` that the page is always served with.

    Args:
        host: the address to listen at.
        port: by default the first free one from 7860.
        allowed_hosts: see `HostGuard`.
    """
    return {
        "server_name": host,
        "server_port": port,
        "share": False,
        "ssr_mode": False,
        "enable_monitoring": False,
        "state_session_capacity": MOST_SESSIONS,
        "max_file_size": MOST_UPLOAD_BYTES,
        "footer_links": ["api"],
        "theme": theme(),
        "css": CSS,
        "show_error": False,
        "app_kwargs": {
            "middleware": [Middleware(HostGuard, allowed_hosts=tuple(allowed_hosts))],
            "routes": [Route(HEALTH, _health)],
        },
    }


def serve(
    app: gr.Blocks,
    host: str,
    port: int | None,
    allowed_hosts: Iterable[str] = (),
    auth: tuple[str, str] | None = None,
    **options: Any,
) -> None:
    """Serve the page, until the process is interrupted.

    Args:
        app: the page.
        host: the address to listen at; 127.0.0.1 is this machine alone, 0.0.0.0 every network.
        port: by default the first free one from 7860.
        allowed_hosts: see `HostGuard`.
        auth: a name and a password that visitors must give.
        options: others of `gr.Blocks.launch`.

    Raises:
        OSError: the port is taken.
    """
    if auth is None and not _is_loopback(host):
        print(
            f"Warning: listening at {host}, the demo answers everyone who can reach this machine over a network. Use"
            " --auth NAME:PASSWORD to ask for a password, or --host 127.0.0.1 for this machine alone."
        )
    try:
        app.launch(**{**launch_options(host, port, allowed_hosts), "auth": auth, **options})
    except OSError as error:
        if "empty port" not in str(error):
            raise
        taken = "All ports from 7860 to 7959 are" if port is None else f"Port {port} is"
        raise OSError(f"{taken} taken by another program. Choose a free one with --port NUMBER.") from error


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
