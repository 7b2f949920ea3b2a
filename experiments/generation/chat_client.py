"""A client of OpenAI's chat interface, which most servers of language models speak: paced, patient and discreet."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import requests
from urllib3.exceptions import HTTPError, InvalidHeader, ReadTimeoutError
from urllib3.util import Retry

from datamodules.errors import DataError
from experiments.generation.chat_server import Pace, Server

_LARGEST_ANSWER, _CHUNK = 1 << 22, 1 << 14
_LONGEST_WAIT_S = 900.0
_LONGEST_REASON = 160
_SHORTEST_KEY = 8
_SAFE = re.compile(r"[^ -~]+")


class StoppedError(DataError):
    """No further question is worth asking: a wrong key, a model that is not there, an empty account."""


class UnansweredError(Exception):
    """A question that got no usable answer; the message says why.

    Args:
        reason: Why.
        spent: Tokens read and written for it all the same.
    """

    def __init__(self, reason: str, spent: tuple[int, int] = (0, 0)) -> None:
        super().__init__(reason)
        self.spent = spent


class NotAskedError(UnansweredError):
    """A question that was given up because the client was stopped; nothing is known of it."""


class Answer(NamedTuple):
    """What a server answered.

    Args:
        text: The words.
        truncated: Whether they were cut off.
        tokens: Tokens of the answer, as the server counted them; 0 where it does not tell.
        spent: Tokens read and written for it, those of attempts whose answer could not be used included.
        model: The model as the server calls it.
    """

    text: str
    truncated: bool
    tokens: int
    spent: tuple[int, int]
    model: str


class _Bearer(requests.auth.AuthBase):
    """The key as a header; given as `auth`, so that no .netrc of the user replaces it."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._key:
            request.headers["Authorization"] = f"Bearer {self._key}"
        return request


class _LostError(Exception):
    """An attempt that may be repeated.

    Args:
        reason: Why.
        wait_s: Seconds that the server asked to wait.
        spent: Tokens read and written for it.
        heard: Whether the server answered at all.
    """

    def __init__(
        self, reason: str, wait_s: float = 0.0, spent: tuple[int, int] = (0, 0), *, heard: bool = True
    ) -> None:
        super().__init__(reason)
        self.wait_s, self.spent, self.heard = wait_s, spent, heard


class ChatClient:
    """Asks a server, from several threads at once.

    Args:
        server: Where.
        pace: How.
    """

    def __init__(self, server: Server, pace: Pace) -> None:
        self.server, self.pace = server, pace
        self._local = threading.local()
        self._lock = threading.Lock()
        self._next = time.monotonic()
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ask nothing more; who waits for a further attempt gives up."""
        self._stop.set()

    def ask(self, body: Mapping[str, Any], name: str) -> Answer:
        """Ask a question until there is an answer.

        Args:
            body: The request.
            name: Name of the question, by which a server may know a repeated request again.

        Raises:
            UnansweredError: if there is no usable answer after all attempts.
            NotAskedError: if the client was stopped before.
            StoppedError: if no question will be answered.
        """
        read = written = heard = 0
        reason = ""
        for attempt in range(self.pace.attempts):
            if not self._has_turn():
                raise NotAskedError("the run was stopped before", (read, written))
            try:
                answer = self._attempt(body, f"{name[:32]}-{heard}")
            except _LostError as lost:
                reason = str(lost)
                read, written = read + lost.spent[0], written + lost.spent[1]
                # A request that was lost on its way is repeated under its own name, so that it is not done twice.
                heard += lost.heard
                longest = self.pace.wait_s * 2**attempt
                if lost.wait_s:
                    self._pause(lost.wait_s)
                elif attempt + 1 < self.pace.attempts:
                    self._sleep(longest * random.uniform(0.5, 1))
            else:
                return answer._replace(spent=(read + answer.spent[0], written + answer.spent[1]))
        raise UnansweredError(f"{reason}, {self.pace.attempts} attempts", (read, written))

    def _has_turn(self) -> bool:
        """Wait until the rate allows a request; False if the client was stopped by then."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + 60 / self.pace.per_minute
        self._sleep(turn - time.monotonic())
        return not self._stop.is_set()

    def _pause(self, seconds: float) -> None:
        """Let no thread ask for a while, since the server asked for it."""
        with self._lock:
            self._next = max(self._next, time.monotonic() + seconds)

    def _sleep(self, seconds: float) -> None:
        if seconds > 0:
            self._stop.wait(seconds)

    def _attempt(self, body: Mapping[str, Any], name: str) -> Answer:
        status, headers, content = self._post(body, name)
        if status != requests.codes.ok:
            self._refused(status, headers, content)
        answer = _read_answer(content)
        # A server may repeat what it was sent, and an answer is kept.
        return answer._replace(text=self._without_key(answer.text), model=self._without_key(answer.model))

    def _post(self, body: Mapping[str, Any], name: str) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of one request, which is bounded in time and size as a whole."""
        started = time.monotonic()
        try:
            with self._session().post(
                f"{self.server.url.rstrip('/')}/chat/completions",
                json=body,
                auth=_Bearer(self.server.key),
                headers={"Idempotency-Key": name, "Accept-Encoding": "identity"},
                timeout=self.pace.timeout_s,
                allow_redirects=False,  # images go to the host that was named and to no other
                stream=True,
            ) as response:
                content = b""
                while chunk := response.raw.read1(_CHUNK):  # whatever is there, so that the time is looked at
                    content += chunk
                    if time.monotonic() - started > self.pace.timeout_s:
                        raise requests.Timeout
                    if len(content) > _LARGEST_ANSWER:
                        raise _LostError("the answer was larger than 4 MB")
                return response.status_code, response.headers, content
        except (requests.Timeout, ReadTimeoutError) as error:
            raise _LostError(f"no answer within {self.pace.timeout_s:g} s", heard=False) from error
        except (requests.RequestException, HTTPError) as error:
            raise _LostError("the connection failed or was closed", heard=False) from error

    def _session(self) -> requests.Session:
        if not hasattr(self._local, "session"):
            session = requests.Session()
            # A proxy from the environment would take images of a local server off this machine.
            session.trust_env = not self.server.local
            self._local.session = session
        session = self._local.session
        assert isinstance(session, requests.Session)
        return session

    def _refused(self, status: int, headers: Mapping[str, str], content: bytes) -> None:
        """Tell what is over at once from what may be tried again.

        Raises:
            StoppedError: if every other question would be refused, too.
            UnansweredError: if this one would always be.
            _LostError: if it may be asked again.
        """
        host, code = self.server.host, _error_field(content, "code")
        if status in (401, 403):
            raise StoppedError(
                f"{host} refused the key (HTTP {status}); set the one that goes with {self.server.variable}, or ask "
                "who runs the server."
            )
        if status == 404:
            raise StoppedError(f"{host} has no such model or no chat interface at that address (HTTP 404).")
        if status == 402 or code == "insufficient_quota":
            raise StoppedError(f"{host} says that the account is used up (HTTP {status}).")
        if 300 <= status < 400:
            raise StoppedError(f"{host} redirects elsewhere (HTTP {status}), which is not followed; name that address.")
        if status in (408, 409, 425, 429) or status >= 500:
            wait_s = _retry_after(headers)
            if wait_s > _LONGEST_WAIT_S:
                raise StoppedError(f"{host} asks to come back in {wait_s / 60:.0f} minutes (HTTP {status}).")
            raise _LostError(f"HTTP {status}", wait_s)
        message = self._discreet(_error_field(content, "message"))
        raise UnansweredError(f"HTTP {status}{f': {message}' if message else ''}")

    def _discreet(self, text: str) -> str:
        """A server's words without the key, on one line, not too long."""
        return _SAFE.sub(" ", self._without_key(text))[:_LONGEST_REASON]

    def _without_key(self, text: str) -> str:
        """A server's words without the key; one that is a short word, as servers of one's own take, is no secret."""
        key = self.server.key
        return text.replace(key, "...") if len(key) >= _SHORTEST_KEY else text


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait, as a number or a date; 0 where it does not say."""
    value = headers.get("Retry-After")
    if value is None:
        return 0.0
    try:
        return max(0.0, float(Retry().parse_retry_after(value)))
    except InvalidHeader:
        return 0.0


def _error_field(content: bytes, name: str) -> str:
    """A field of a server's error as text; empty where there is none."""
    try:
        found = json.loads(content)["error"][name]
    except (ValueError, KeyError, TypeError):
        return ""
    return found if isinstance(found, str) else ""


def _read_answer(content: bytes) -> Answer:
    """The answer of a response with status 200.

    Raises:
        _LostError: if it is not JSON, or holds no words.
    """
    try:
        found = json.loads(content)
    except ValueError as error:
        raise _LostError("the answer was not JSON") from error
    spent = _tokens(found)
    try:
        choice = found["choices"][0]
        message = choice["message"]
        # A refusal is what the model has to say of that kidney.
        text = message.get("content") or message.get("refusal")
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise _LostError("the answer held no choice", spent=spent) from error
    if not isinstance(text, str) or not text.strip():
        raise _LostError("the answer was empty", spent=spent)
    model = found.get("model")
    return Answer(
        " ".join(text.split()),
        choice.get("finish_reason") == "length",
        spent[1],
        spent,
        model if isinstance(model, str) else "",
    )


def _tokens(found: Any) -> tuple[int, int]:
    usage = found.get("usage") if isinstance(found, dict) else None
    known = usage if isinstance(usage, dict) else {}
    counts = [known.get(name) for name in ("prompt_tokens", "completion_tokens")]
    read, written = (count if isinstance(count, int) else 0 for count in counts)
    return read, written
