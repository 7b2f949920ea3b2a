"""What pages of this machine share: headers, refusals as text, the token of a change, and their server."""

from __future__ import annotations

import hmac
import logging
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

from flask import Flask, Response, abort, session
from jinja2 import StrictUndefined
from werkzeug.exceptions import HTTPException
from werkzeug.serving import BaseWSGIServer, make_server
from werkzeug.wrappers import Response as AnyResponse

from datamodules.errors import DataError
from experiments.runs.console import say

HOST = "127.0.0.1"
LOCAL = (HOST, "localhost")
"""Names of this machine to itself."""
POLICY = (
    "default-src 'none'; img-src 'self' blob:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


def local_page(name: str, folder: Path, largest_bytes: int, hosts: Sequence[str] = LOCAL) -> Flask:
    """A page with session, headers and refusals, and without routes; its templates write `token()` for their changes.

    Args:
        name: Name of the page and of its cookie.
        folder: Where its `templates` and `static` are.
        largest_bytes: Largest request.
        hosts: Names by which it may be asked for. A page elsewhere whose name resolves to this machine (DNS rebinding)
            comes with its own name. Any name where none is given, which asks for a token in its place.
    """
    app = Flask(name, template_folder=str(folder / "templates"), static_folder=str(folder / "static"))
    app.config.update(
        SECRET_KEY=secrets.token_bytes(32),  # sessions end with the process; nothing secret lies on the disk
        SESSION_COOKIE_NAME=name,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_HTTPONLY=True,
        MAX_CONTENT_LENGTH=largest_bytes,
        TRUSTED_HOSTS=list(hosts) or None,
    )
    app.jinja_env.undefined = StrictUndefined
    app.jinja_env.globals["token"] = _token
    app.after_request(_guarded)
    app.register_error_handler(HTTPException, _refused)
    app.register_error_handler(DataError, lambda error: told(str(error), 500))
    return app


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


def _token() -> str:
    """The token of this session, which other pages cannot read and every change must carry."""
    return str(session.setdefault("token", secrets.token_urlsafe(32)))


def check_token(given: str) -> None:
    """Refuse a change that does not carry the token of its session."""
    if not hmac.compare_digest(given.encode(), _token().encode()):
        abort(403, "The page is older than the server, or the request came from another page; open the page anew.")


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


def serve_until_stopped(server: BaseWSGIServer, said: str) -> None:
    """Say where the page is, and answer until Ctrl-C."""
    try:
        say(said)
        server.serve_forever()
    except KeyboardInterrupt:
        pass  # how it ends
    finally:
        server.server_close()
