"""``maskloom serve``."""

from __future__ import annotations

import logging
import socket
from typing import Annotated

import typer

from backend import __version__
from backend.cli.terminal import say
from backend.values.errors import SetupError


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 9090,
) -> None:
    """Start the server that Label Studio talks to."""
    import uvicorn

    from backend.app import create_app
    from backend.assemble import assemble
    from backend.values.settings import Settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    parts = assemble(Settings())
    _check_port(host, port)
    say(f"Maskloom {__version__}, engine {parts.engine.version}, on http://{host}:{port} (API at /docs)")
    uvicorn.run(create_app(parts, prewarm=True), host=host, port=port, log_level="warning")


def _check_port(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise SetupError(f"cannot listen on {host}:{port} ({error.strerror}); choose another port with --port") from error
