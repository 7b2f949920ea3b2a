"""What pages of this machine share: headers, refusals as text, and a server that is bound before it is named."""

from __future__ import annotations

import logging
import secrets
import socket

from flask import Flask, Response
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.wrappers import Response as AnyResponse

from datamodules.errors import DataError

HOST = "127.0.0.1"
LOCAL = (HOST, "localhost")
"""Names of this machine to itself."""
POLICY = (
    "default-src 'none'; img-src 'self' blob:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def prepared(app: Flask, name: str, largest_bytes: int, hosts: list[str]) -> None:
    """Session, headers and refusals of a page.

    Args:
        app: The page.
        name: Name of its cookie.
        largest_bytes: Largest request.
        hosts: Names by which it may be asked for. A page elsewhere whose name resolves to this machine (DNS rebinding)
            comes with its own name. Any name where none is given, which asks for a token in its place.
    """
    app.config.update(
        SECRET_KEY=secrets.token_bytes(32),  # sessions end with the process; nothing secret lies on the disk
        SESSION_COOKIE_NAME=name,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_HTTPONLY=True,
        MAX_CONTENT_LENGTH=largest_bytes,
        TRUSTED_HOSTS=hosts or None,
    )
    app.after_request(_guarded)
    app.register_error_handler(HTTPException, _refused)
    app.register_error_handler(DataError, lambda error: told(str(error), 500))


def _guarded(response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    response.headers["Cache-Control"] = "no-store"  # scans and reports are not left in a browser's cache
    return response


def _refused(error: HTTPException) -> AnyResponse:
    if error.code is not None and error.code >= 400:
        return told(str(error.description), error.code)
    return error.get_response()


def told(text: str, code: int) -> Response:
    """An error, as plain text for a browser and its script alike."""
    return Response(text, status=code, mimetype="text/plain")


def serve(app: Flask, port: int, host: str = HOST) -> BaseWSGIServer:
    """A server, of this machine alone by default, bound and not started yet; a thread a request.

    Args:
        app: The page.
        port: Port; 0 for any that is free.
        host: Address that it listens on.

    Raises:
        DataError: if address or port is taken or not allowed.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request would hide everything else
    if not 0 <= port <= 65535:
        raise DataError(f"PORT={port} was found; expected 1 to 65535.")
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except OSError as error:
            raise DataError(f"Port {port} is not free ({error.strerror}); choose another with PORT=.") from error
        bound.listen()
        return make_server(host, port, app, threaded=True, fd=bound.fileno())
