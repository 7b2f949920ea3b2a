"""Where a chat interface is, and how fast and patiently it is asked."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from datamodules.errors import DataError


@dataclass(frozen=True)
class Server:
    """Where questions go.

    Args:
        url: Address of the interface, for example `http://localhost:8000/v1`.
        key: Its key, which is in no message, file or representation of this object.
        variable: Environment variable that gave the address.

    Raises:
        DataError: if the address is none, or holds a key of its own.
    """

    url: str = field(repr=False)
    key: str = field(repr=False)
    variable: str

    def __post_init__(self) -> None:
        if not _is_address(self.url):
            raise DataError(
                f"The address in {self.variable} is not one of a server; expected http or https, a host and a path, "
                "such as http://localhost:8000/v1, without a name, key or question mark in it."
            )
        if not self.key.isascii() or not self.key.isprintable():
            raise DataError(f"The key that goes with {self.variable} holds characters that no key has; set it again.")

    @property
    def host(self) -> str:
        """Host and port, for messages."""
        return urlsplit(self.url).netloc

    @property
    def local(self) -> bool:
        """Whether it is this machine by its very name; other names are not looked up."""
        host = urlsplit(self.url).hostname or ""
        try:
            return host == "localhost" or ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True)
class Pace:
    """How fast and how patiently questions are asked.

    Args:
        concurrency: Questions under way at a time.
        per_minute: Most requests a minute, further attempts included.
        attempts: Attempts at a question.
        wait_s: Longest wait before the second attempt in seconds; it doubles with every further one. A server that says
            how long to wait (Retry-After) is obeyed.
        timeout_s: Seconds until an attempt counts as lost.

    Raises:
        DataError: if one is out of range.
    """

    concurrency: int = 4
    per_minute: float = 60.0
    attempts: int = 6
    wait_s: float = 2.0
    timeout_s: float = 180.0

    def __post_init__(self) -> None:
        if min(self.concurrency, self.attempts) < 1 or min(self.per_minute, self.wait_s, self.timeout_s) <= 0:
            raise DataError(f"{self} was asked for; expected positive numbers.")


def _is_address(url: str) -> bool:
    """Whether a URL names a host by http and holds nothing secret."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        return False
    return known and not ("@" in parts.netloc or parts.query or parts.fragment)
