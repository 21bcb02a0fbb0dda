"""Hosting a node: `serve` and `worker`, with exit codes that tell a supervisor; `migrate`."""

import sys
from functools import partial
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from trioqueue.errors import ConfigError
    from trioqueue.store.migrations import Migrated
    from trioqueue.web.site import Site

# What the commands need is imported when they run: asking for help must not take a second.


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
    from trioqueue.config import load_settings
    from trioqueue.errors import ConfigError
    from trioqueue.web.server import serve as serve_site

    try:
        asked = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
        settings = load_settings(**asked)
        site = _find_site(app)
    except ConfigError as error:
        return _refuse(error)
    address = f"[{settings.host}]" if ":" in settings.host else settings.host
    bind = [f"{address}:{settings.port}"]
    return serve_site(site, bind=bind, access_log=access_log, ends_process=True)


def worker(app: str = "trioqueue.app:app") -> int:
    """Run jobs until SIGTERM or SIGINT, without HTTP.

    Exit codes: as those of serve.

    Parameters
    ----------
    app
        The app whose handlers to run, as module:name; your own, made with create_app(handlers).
    """
    from trioqueue.errors import ConfigError
    from trioqueue.web.server import serve as serve_site

    try:
        site = _find_site(app)
    except ConfigError as error:
        return _refuse(error)
    return serve_site(site, bind=None, ends_process=True)


def migrate(*, print_only: Annotated[bool, Parameter("--print", negative="")] = False) -> int:
    """Bring the store of TRIOQUEUE_STORE to the version that this trioqueue knows.

    Exit codes: 0 done, 70 the store cannot be reached, 78 bad configuration.

    Parameters
    ----------
    print_only
        Print the SQL that would be applied, and change nothing.
    """
    import trio

    from trioqueue.config import load_settings, without_secrets
    from trioqueue.errors import ConfigError, StoreUnavailable
    from trioqueue.node import postgres_options
    from trioqueue.store.open import migrate_store
    from trioqueue.web.process import ExitCode

    try:
        settings = load_settings()
        migrating = partial(
            migrate_store, settings.store, postgres=postgres_options(settings), print_only=print_only
        )
        migrated = trio.run(migrating)
    except ConfigError as error:
        return _refuse(error)
    except StoreUnavailable as error:
        sys.stderr.write(f"trioqueue: {error}\n")
        return ExitCode.CRASHED
    done = f"{without_secrets(settings.store)} {_words(migrated, print_only)}"
    sys.stdout.write(f"-- {done}\n{migrated.sql}" if print_only else f"{done}\n")
    return 0


def _words(migrated: "Migrated", print_only: bool) -> str:
    if migrated.before == migrated.after:
        return f"is up to date, at version {migrated.after}"
    verb = "would be migrated" if print_only else "has been migrated"
    return f"{verb} from version {migrated.before} to version {migrated.after}"


def _refuse(error: "ConfigError") -> int:
    from trioqueue.web.process import ExitCode

    sys.stderr.write(f"trioqueue: {error}\n")
    return ExitCode.BAD_CONFIG


def _find_site(reference: str) -> "Site":
    from trioqueue.config import find_by_name
    from trioqueue.errors import ConfigError
    from trioqueue.web.site import Site

    found = find_by_name(reference if ":" in reference else f"{reference}:app", said=f"the app {reference!r}")
    if not isinstance(found, Site):
        raise ConfigError(
            [f"the app {reference!r} is a {type(found).__name__}; make it with trioqueue.app.create_app"]
        )
    return found
