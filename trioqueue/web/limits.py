"""How much of anything one client may have. Every number of the hosting layer, on one page."""

from dataclasses import dataclass

SERVER_SECONDS = 1.0
"""What the HTTP server gets to finish its requests, once the process was told to end."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the connection guard and the edge allow. Times are in seconds."""

    connections: int = 512
    """Open connections of one process; the next one gets a bare 503."""

    idle_seconds: float = 5.0
    """Between two requests of one connection; `--keep-alive` of the hypercorn command wins."""

    head_seconds: float = 10.0
    """From the first byte of a request head to its last, however slowly the bytes drip in."""

    body_seconds: float = 20.0
    """From the start of a request to the last byte of its body."""

    write_seconds: float = 10.0
    """For the client to take each chunk (64 KiB at most) of a response."""

    headers: int = 64
    """Header fields of one request."""

    head_bytes: int = 16 * 1024
    """Names and values of all its header fields together."""

    target_bytes: int = 4 * 1024
    """The path and the query string."""

    drain_bytes: int = 8 * 1024 * 1024
    """How much of a refused body is read and dropped, so that the client gets to read its answer."""

    drain_seconds: float = 2.0
    """How long that may take."""
