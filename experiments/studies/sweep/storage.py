"""Where a study is kept: a SQLite file beside the trials, or a database that many workers share."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from urllib.parse import quote

import optuna
from optuna import Study
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from datamodules.errors import DataError

STORAGE_VARIABLE = "SWEEP_STORAGE"
"""Environment variable that `make` gives the URL in, so that a password is on no command line."""
HEARTBEAT_S = 30
RETRIES = 3
"""How often a trial whose worker died is run again."""

_HIDDEN = "***"
_SECRET = re.compile(r"pass|pwd|secret|token|key", re.IGNORECASE)


def redacted(url: str) -> str:
    """A storage URL without its password, also where the password is part of its query."""
    if not url:
        return ""
    try:
        parsed = make_url(url)
    except ArgumentError:
        return _HIDDEN
    query = {name: _HIDDEN if _SECRET.search(name) else value for name, value in parsed.query.items()}
    return parsed.set(query=query).render_as_string(hide_password=True).replace(quote(_HIDDEN, safe=""), _HIDDEN)


def chosen_url(storage: str) -> str:
    """The URL of the user: the argument, else the environment; empty for the file beside the trials.

    Raises:
        DataError: if it is one that was redacted, as the configuration of a run keeps it.
    """
    url = storage or os.environ.get(STORAGE_VARIABLE, "")
    if _HIDDEN in url:
        raise DataError(
            f"STORAGE={redacted(url)} has its password taken out, as runs keep it; give the whole URL, in the "
            f"environment variable {STORAGE_VARIABLE} for `make resume`."
        )
    return url


def open_storage(url: str, folder: Path) -> RDBStorage:
    """The storage of a study.

    Workers give a sign of life every `HEARTBEAT_S` seconds; the trial of one that was silent for four times as long is
    failed and queued again, at most `RETRIES` times.

    Args:
        url: As SQLAlchemy takes it; empty for `study.db` in the folder.
        folder: Folder of the sweep.

    Raises:
        DataError: if the URL cannot be read, its driver is not installed or the database does not answer; never with
            the password.
    """
    if not url:
        folder.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{(folder / 'study.db').resolve()}"
    shown = redacted(url)
    try:
        # A write waits for that of another worker instead of failing.
        waiting = {"connect_args": {"timeout": 60}} if make_url(url).get_backend_name() == "sqlite" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            return RDBStorage(
                url,
                engine_kwargs={"pool_pre_ping": True, **waiting},
                heartbeat_interval=HEARTBEAT_S,
                grace_period=4 * HEARTBEAT_S,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(RETRIES, True),
            )
    except ArgumentError:
        reason = "it is no URL that SQLAlchemy reads; expected for example postgresql://user@host/database"
    except ImportError as error:
        name = error.name or "the driver of its dialect"
        reason = f"{name} is not installed; install it (for PostgreSQL `pip install psycopg2-binary`)"
    except TypeError:
        reason = "its driver does not take the options behind the question mark"
    except SQLAlchemyError as error:
        kind = type(getattr(error, "orig", None) or error).__name__
        reason = f"the database does not answer ({kind}); check host, user, password and database"
    raise DataError(f"STORAGE={shown} cannot be used: {reason}.")


def retry(study: Study, number: int) -> None:
    """Fail a trial that nobody works on any more, and queue it again with its values and the epochs it reported."""
    found = _trial(study, number)
    if found.state == TrialState.RUNNING:
        study.tell(number, state=TrialState.FAIL)
        found = _trial(study, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        RetryHeartbeatStaleTrialCallback(RETRIES, True)(study, found)


def original_number(trial: FrozenTrial) -> int:
    """The number of the trial itself, or of the one that it goes on with."""
    return int(trial.system_attrs.get("failed_trial", trial.number))


def fail_stale(study: Study) -> None:
    """Fail and queue again the trials whose workers gave no sign of life."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        optuna.storages.fail_stale_trials(study)


def _trial(study: Study, number: int) -> FrozenTrial:
    return study.get_trials(deepcopy=False)[number]
