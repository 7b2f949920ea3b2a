"""Generated reports of a tiny cohort, without any model, and a server of their review."""

from __future__ import annotations

import json
import re
from contextlib import AbstractContextManager
from pathlib import Path

import pandas as pd
import requests

from datamodules.cohort.cohort import Cohort
from datamodules.files import write_json
from datamodules.reports.sides import KIDNEY, side_reports
from datamodules.volumes.shards import VolumeSet
from experiments.generation.generate import SETTINGS
from experiments.generation.records import GENERATED, write_generated
from experiments.generation.review.cases import read_cases
from experiments.generation.review.review import Review
from experiments.generation.review.review_page import create_app
from experiments.generation.review.scans import Scans
from experiments.runs.folders import system_folder
from tests.experiments.runs.local_server import running

SYSTEMS = ("writer", "template", "nearest")
ATTACK = '<script>alert("report")</script> & <img src=x onerror=alert(1)>'


def write_reports(root: Path, runs: Path, patients: int = 4) -> None:
    """Reports of some patients: the right one, one with another pole and an attack, and one that says little."""
    cohort = Cohort.load(root)
    texts = side_reports(cohort)
    texts = texts[texts["patient_id"].isin(sorted(set(texts["patient_id"]))[:patients])]
    changed = {
        "writer": lambda text: text,
        "template": lambda text: text.replace("upper", "lower") + " " + ATTACK,
        "nearest": lambda text: "No hydronephrosis.",
    }
    for name, change in changed.items():
        folder = system_folder(runs, cohort, name, 42)
        rows = texts[KIDNEY].assign(text=texts["text"].map(change), system=name, center="E1", role="external")
        folder.mkdir(parents=True)
        write_generated(folder / GENERATED, pd.DataFrame(rows))
        write_json(folder / SETTINGS, {"parts": []})


def open_review(root: Path, runs: Path, folder: Path, seed: int = 0) -> Review:
    """The review as the command opens it."""
    cases = read_cases(Cohort.load(root), runs, None, 42, "", None, seed)
    return Review(cases, seed, folder, "Phantom results.")


def served(review: Review, root: Path) -> AbstractContextManager[str]:
    """The address of a running server."""
    return running(create_app(review, Scans(VolumeSet.find(root))))


class Reader:
    """A reviewer's browser: cookies, and the token of the page."""

    def __init__(self, address: str, name: str = "R1") -> None:
        self.address = address
        self.http = requests.Session()
        start = self.http.get(address)
        self.token = re.search(r'name="token" value="([^"]+)"', start.text)[1]  # type: ignore[index]
        self.landed = self.http.post(f"{address}/start", data={"token": self.token, "reviewer": name})

    def page(self, number: int) -> str:
        """The page of a case."""
        answer = self.http.get(f"{self.address}/case/{number}")
        assert answer.status_code == 200
        return answer.text

    def rate(self, number: int, letter: str, token: str | None = None, **said: object) -> requests.Response:
        """Rate a report."""
        whole = {"quality": 3, "errors": "minor", "comment": "", "seconds": 1.5, "marks_visible": False, **said}
        return self.http.post(
            f"{self.address}/rate",
            data=json.dumps({"case": number, "letter": letter, **whole}),
            headers={
                "Content-Type": "application/json",
                "X-Review-Token": self.token if token is None else token,
            },
        )
