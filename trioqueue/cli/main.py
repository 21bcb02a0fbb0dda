"""`trioqueue serve`: the service under a process supervisor, with exit codes that tell."""

import sys
from typing import Annotated

from cyclopts import App, Parameter

from trioqueue.config import find_by_name, load_settings
from trioqueue.errors import ConfigError
from trioqueue.web.process import ExitCode
from trioqueue.web.server import serve as serve_site
from trioqueue.web.site import Site

cli = App(name="trioqueue", help="A job-queue service on Trio.")


@cli.command
def serve(
    app: str = "trioqueue.app:app",
    *,
    host: str | None = None,
    port: int | None = None,
    access_log: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Run the service until SIGTERM or SIGINT.

    Exit codes: 0 drained, 3 gave up with leases left, 70 crashed, 78 bad configuration.

    Parameters
    ----------
    app
        The app to serve, as module:name; your own, made with create_app(handlers).
    host
        The address to listen on. [default: TRIOQUEUE_HOST, else 127.0.0.1]
    port
        The port to listen on. [default: PORT, else 8080]
    access_log
        Write a line for every request to standard output.
    """
    try:
        asked = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
        settings = load_settings(**asked)
        site = _find_site(app)
    except ConfigError as error:
        sys.stderr.write(f"trioqueue: {error}\n")
        return ExitCode.BAD_CONFIG
    address = f"[{settings.host}]" if ":" in settings.host else settings.host
    bind = [f"{address}:{settings.port}"]
    return serve_site(site, bind=bind, access_log=access_log, ends_process=True)


def main() -> None:
    """The entry point: ends the process with the command's exit code."""
    cli(sys.argv[1:])


def _find_site(reference: str) -> Site:
    found = find_by_name(reference if ":" in reference else f"{reference}:app", said=f"the app {reference!r}")
    if not isinstance(found, Site):
        raise ConfigError(
            [f"the app {reference!r} is a {type(found).__name__}; make it with trioqueue.app.create_app"]
        )
    return found
