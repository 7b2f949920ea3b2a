"""The review page: a small server for this machine alone, which tells a browser nothing of the systems."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, redirect, render_template, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from datamodules.errors import DataError
from experiments.generation.facts import VERDICTS
from experiments.generation.review.marks import MEANING, SYMBOLS
from experiments.generation.review.ratings import ERRORS, QUALITIES
from experiments.generation.review.review import Review
from experiments.generation.review.scans import PLANES, WINDOWS_HU, Scans
from experiments.runs.local_pages import check_token, local_page

TOKEN_HEADER = "X-Review-Token"
LONGEST_COMMENT = 4000
_NAME = re.compile(r"[\w][\w .-]{0,31}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_FIELDS = {"case", "letter", "quality", "errors", "comment", "seconds", "marks_visible"}
_LONGEST_S = 1e6


def create_app(review: Review, scans: Scans) -> Flask:
    """The page as a WSGI application.

    Args:
        review: Cases and ratings.
        scans: Pictures of the kidneys.
    """
    app = local_page("review", Path(__file__).parent, 1 << 16)
    app.jinja_env.globals |= {
        "symbols": SYMBOLS, "meaning": MEANING, "verdicts": VERDICTS, "qualities": QUALITIES, "errors": ERRORS,
        "note": review.note, "longest": LONGEST_COMMENT, "windows": WINDOWS_HU,
    }  # fmt: skip
    _add_pages(app, review, scans)
    _add_data(app, review, scans)
    return app


def _add_pages(app: Flask, review: Review, scans: Scans) -> None:
    @app.get("/")
    def start() -> AnyResponse | str:
        if "reviewer" in session:
            return redirect(url_for("go_on"))
        return render_template("start.html", problem="", name="", kidneys=len(review.cases))

    @app.post("/start")
    def begin() -> AnyResponse | tuple[str, int]:
        check_token(request.form.get("token", ""))
        name = " ".join(request.form.get("reviewer", "").split())
        if not _NAME.fullmatch(name):
            problem = "A name has 1 to 32 letters, digits, blanks, dots, hyphens or underscores."
            return render_template("start.html", problem=problem, name=name, kidneys=len(review.cases)), 400
        review.begin(name)
        session["reviewer"] = name
        return redirect(url_for("go_on"), 303)

    @app.post("/leave")
    def leave() -> AnyResponse:
        check_token(request.form.get("token", ""))
        session.pop("reviewer", None)
        return redirect(url_for("start"), 303)

    @app.get("/next")
    def go_on() -> AnyResponse | str:
        reviewer = _reviewer()
        number = review.first_open(reviewer, request.args.get("after", 0, type=int) % len(review.cases))
        if number is None:
            return render_template("finished.html", reviewer=reviewer, kidneys=len(review.cases))
        return redirect(url_for("case", number=number))

    @app.get("/case/<int:number>")
    def case(number: int) -> str:
        reviewer = _reviewer()
        kidney = _known(lambda: review.case(reviewer, number))
        planes = {
            plane: {
                "slices": scans.slices(plane),
                "first": scans.first_slice(kidney, plane),
                "size": scans.size(plane),
            }
            for plane in PLANES
        }
        series = scans.series(kidney)
        venous = [place for place, entry in enumerate(series) if entry.title.startswith("venous")]
        return render_template(
            "case.html", review=review.identity, shown=review.shown(reviewer, number), number=number,
            reviewer=reviewer, series=series, planes=planes, preferred=[*venous, 0][0],
            outlined=scans.outlined(kidney), done=review.progress(reviewer),
        )  # fmt: skip


def _add_data(app: Flask, review: Review, scans: Scans) -> None:
    @app.get("/case/<int:number>/<int:series>/<plane>/<int:level>.png")
    def picture(number: int, series: int, plane: str, level: int) -> Response:
        kidney, window = _known(lambda: review.case(_reviewer(), number)), request.args.get("window", "soft")
        there = plane in PLANES and series < len(scans.series(kidney)) and level < scans.slices(plane)
        if not there or window not in WINDOWS_HU:
            abort(404, "There is no such slice.")
        outline = "outline" in request.args
        return Response(scans.picture(kidney, series, plane, level, outline, window), mimetype="image/png")

    @app.post("/rate")
    def rate() -> dict[str, Any]:
        reviewer = _reviewer()
        check_token(request.headers.get(TOKEN_HEADER, ""))
        said = _checked(request.get_json(silent=True))
        number = said.pop("case")
        rating = _known(lambda: review.rating(reviewer, number, said.pop("letter")))
        kept = review.ratings.save(replace(rating, **said))
        done = review.progress(reviewer)
        return {"saved": kept.rated, "complete": kept.complete, "rated": sum(done), "of": len(done)} | {
            "finished": done[number - 1]
        }


def _checked(said: Any) -> dict[str, Any]:
    """A rating as a browser sent it, with every field of the right kind and within its range."""
    if not isinstance(said, dict) or set(said) != _FIELDS:
        abort(400, f"A rating has the fields {', '.join(sorted(_FIELDS))}.")
    quality, errors, comment, seconds = (said[name] for name in ("quality", "errors", "comment", "seconds"))
    right = {
        "case": type(said["case"]) is int,
        "letter": isinstance(said["letter"], str),
        "quality": quality is None or (type(quality) is int and quality in QUALITIES),
        "errors": isinstance(errors, str) and errors in ("", *ERRORS),
        "comment": isinstance(comment, str) and len(comment) <= LONGEST_COMMENT,
        "seconds": type(seconds) in (int, float) and math.isfinite(seconds) and 0 <= seconds <= _LONGEST_S,
        "marks_visible": type(said["marks_visible"]) is bool,
    }
    wrong = [name for name, fine in right.items() if not fine]
    if wrong:
        abort(
            400,
            f"The rating's {', '.join(wrong)} cannot be; expected quality {QUALITIES[0]} to {QUALITIES[-1]}, errors "
            f"{', '.join(ERRORS)}, a comment of at most {LONGEST_COMMENT} characters.",
        )
    return {**said, "comment": _CONTROL.sub(" ", comment).strip(), "seconds": round(float(seconds), 1)}


def _reviewer() -> str:
    """The name that was given at the start."""
    if "reviewer" not in session:
        if request.method == "GET" and request.accept_mimetypes.accept_html:
            abort(redirect(url_for("start")))
        abort(401, "Nobody is signed in, or the server was started anew; open the first page and give your name.")
    return str(session["reviewer"])


def _known(read: Any) -> Any:
    """What `read` finds of the review, 404 where it does not know it."""
    try:
        return read()
    except DataError as error:
        abort(404, str(error))
