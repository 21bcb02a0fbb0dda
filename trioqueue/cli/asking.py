"""How a command asks a running service, and what the process ends with: the exit codes are here."""

import sys
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from trioqueue.client import Client

DEFAULT_URL = "http://127.0.0.1:8080"


class ExitCode(IntEnum):
    """What a command that asks a service ends with. docs/command-line.md describes each."""

    OK = 0
    NO = 1
    BAD_USAGE = 2
    REFUSED = 4
    UNREACHABLE = 69
    NOT_YET = 75
    BAD_CONFIG = 78


def to_seconds(type_: object, tokens: Any) -> float:
    """`90`, `30s`, `5m`, `12h` or `7d` as seconds, for cyclopts."""
    from trioqueue.config import parse_duration

    return float(str(parse_duration(tokens[0].value)))


Url = Annotated[str, Parameter(env_var="TRIOQUEUE_URL", help="Where the service is.")]
AsJson = Annotated[bool, Parameter("--json", negative="", help="Print the service's JSON and nothing else.")]
Seconds = Annotated[float, Parameter(converter=to_seconds)]


def ask(url: str, asking: Callable[["Client"], Awaitable[int]]) -> int:
    """Run the asking against the service; what it raises becomes one line on stderr and an exit code."""
    import trio

    from trioqueue.client import open_client
    from trioqueue.errors import ConfigError, ServiceError, ServiceUnreachable

    async def run() -> int:
        async with open_client(url) as client:
            return await asking(client)

    try:
        return trio.run(run)
    except ConfigError as error:
        return complain(error.problems[0], ExitCode.BAD_CONFIG)
    except ServiceUnreachable as error:
        return complain(f"{error}; {_where_to_look(url)}", ExitCode.UNREACHABLE)
    except ServiceError as error:
        return complain(str(error), ExitCode.REFUSED if error.status < 500 else ExitCode.UNREACHABLE)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has seen enough, as `head` has
        return ExitCode.OK


def complain(words: str, code: ExitCode) -> ExitCode:
    """One line on stderr."""
    line = " ".join(words.split())
    sys.stderr.write(f"trioqueue: {line}\n")
    return code


def _where_to_look(url: str) -> str:
    if url == DEFAULT_URL:
        return (
            "start one with `trioqueue serve`, or say where it is with --url or TRIOQUEUE_URL "
            "(the hypercorn command listens on port 8000)"
        )
    return "repeat later, or say where it is with --url or TRIOQUEUE_URL"
