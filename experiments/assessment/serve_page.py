"""The page on which a study is dropped: it takes files, says how far it is, and shows the assessment."""

from __future__ import annotations

import hmac
import json
import shutil
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, redirect, render_template, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from datamodules.cohort.columns import PHASES
from datamodules.errors import DataError
from experiments.assessment.jobs import DONE, Job, Jobs
from experiments.assessment.uploads import Limits, receive
from experiments.runs.local_pages import LOCAL, POLICY, check_token, local_page, told

TOKEN_HEADER = "X-Assess-Token"
RESULT_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'self'"
)
"""Of the assessment itself, which holds its style and its pictures, and no script."""
_TYPES = {".html": "text/html", ".json": "application/json", ".dcm": "application/dicom", ".gz": "application/gzip"}

Assess = Callable[[Path, Callable[[str], None]], Mapping[str, bytes]]


def create_app(
    assess: Assess, jobs: Jobs, limits: Limits, note: str, token: str = "", hosts: tuple[str, ...] = LOCAL
) -> Flask:
    """The page as a WSGI application.

    Args:
        assess: Assesses the study in a folder, told how to say what it does; returns results by file name.
        jobs: The queue.
        limits: How much one study may be.
        note: What must be said of the models.
        token: Who does not know it is sent away; empty on a server of this machine alone.
        hosts: Names by which the page may be asked for.
    """
    app = local_page("assess", Path(__file__).parent, limits.upload_bytes, hosts)
    app.jinja_env.globals |= {"note": note, "known_phases": PHASES, "limit_mb": limits.upload_bytes >> 20}
    if token:
        _add_door(app, token)
    _add_routes(app, assess, jobs, limits)
    return app


def _add_door(app: Flask, token: str) -> None:
    def door() -> AnyResponse | None:
        if session.get("known"):
            return None
        if hmac.compare_digest(request.args.get("token", "").encode(), token.encode()):
            session["known"] = True
            return redirect(url_for("start"))  # the token leaves the address bar
        return told("Open the address that the server printed, with its token.", 403)

    app.before_request(door)


def _add_routes(app: Flask, assess: Assess, jobs: Jobs, limits: Limits) -> None:
    @app.get("/")
    def start() -> Response:
        page = Response(render_template("serve.html"))
        page.headers["Content-Security-Policy"] = f"{POLICY}; frame-src 'self'"
        return page

    @app.get("/favicon.ico")
    def icon() -> tuple[str, int]:
        return "", 204

    @app.post("/studies")
    def take() -> tuple[dict[str, str], int] | Response:
        check_token(request.headers.get(TOKEN_HEADER, ""))
        study, mask = request.files.get("study"), request.files.get("mask")
        if study is None or not study.filename:
            return told("No study was sent; choose a .zip, .nii or .nii.gz file.", 400)
        try:
            folder = jobs.folder()
        except DataError as error:
            return told(str(error), 503)
        try:
            phase = request.form.get("phase", "")
            root = receive(folder, study, mask if mask and mask.filename else None, phase, limits)
        except DataError as error:
            shutil.rmtree(folder)
            return told(str(error), 400)
        except BaseException:
            shutil.rmtree(folder)
            raise
        job = jobs.add(Job(partial(assess, root), folder))
        return {"study": job.key}, 202

    @app.get("/studies/<key>")
    def progress(key: str) -> dict[str, Any]:
        job = _known(jobs, key)
        spent = (job.ended or time.monotonic()) - job.began
        said = {"state": job.state, "step": job.step, "reason": job.reason, "seconds": round(spent, 1)}
        return said | {"files": sorted(job.results)}

    @app.get("/studies/<key>/<name>")
    def result(key: str, name: str) -> Response:
        job = _known(jobs, key)
        if job.state != DONE or name not in job.results:
            abort(404, "There is no such result.")
        found = Response(job.results[name], mimetype=_TYPES[Path(name).suffix])
        found.headers["Content-Security-Policy"] = RESULT_POLICY
        if name.endswith((".dcm", ".gz")) or "save" in request.args:
            found.headers["Content-Disposition"] = f"attachment; filename={json.dumps(name)}"
        return found

    @app.delete("/studies/<key>")
    def forget(key: str) -> tuple[str, int]:
        check_token(request.headers.get(TOKEN_HEADER, ""))
        jobs.forget(key)
        return "", 204


def _known(jobs: Jobs, key: str) -> Job:
    job = jobs.get(key)
    if job is None:
        abort(404, "This study is not known here, or was forgotten; send it again.")
    return job
