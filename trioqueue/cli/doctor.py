"""`trioqueue doctor`: what would keep a service from working here, each finding with what to do."""

import os
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trioqueue.cli.asking import DEFAULT_URL, AsJson, ExitCode, Url
from trioqueue.cli.output import print_json, print_line

if TYPE_CHECKING:
    from trioqueue.config import Settings


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check came to; `detail` says what to do when it is not `ok`."""

    check: str
    ok: bool
    detail: str


def doctor(*, json: AsJson = False, url: Url = DEFAULT_URL) -> int:
    """Check the settings, the handlers, the store and the service. Exit code 1 when something is wrong.

    Nothing is changed: a store that is not there yet is not made.
    """
    import msgspec
    import trio

    from trioqueue.config import load_settings
    from trioqueue.errors import ConfigError

    try:
        settings = load_settings()
    except ConfigError as error:
        findings = [Finding("settings", False, problem) for problem in error.problems]
    else:
        warnings = [Finding("settings", False, warning) for warning in settings.warnings]
        findings = warnings or [Finding("settings", True, "every one can be used")]
        findings += [_handlers(settings), trio.run(_store, settings)]
    findings.append(trio.run(_service, url))
    if json:
        print_json(msgspec.json.encode({"findings": [asdict(finding) for finding in findings]}))
    else:
        for finding in findings:
            print_line(f"{'ok' if finding.ok else 'WRONG':<6} {finding.check}: {finding.detail}")
    return ExitCode.OK if all(finding.ok for finding in findings) else ExitCode.NO


def _handlers(settings: "Settings") -> Finding:
    from trioqueue.config import load_handlers
    from trioqueue.errors import ConfigError

    if settings.handlers is None:
        return Finding(
            "handlers", True, "none: demo mode, until TRIOQUEUE_HANDLERS=package.module:name is set"
        )
    try:
        types = sorted(load_handlers(settings.handlers).types)
    except ConfigError as error:
        return Finding("handlers", False, error.problems[0])
    if not types:
        return Finding("handlers", False, f"{settings.handlers} is empty: register a handler in it")
    return Finding("handlers", True, f"{settings.handlers} has {', '.join(types)}")


async def _store(settings: "Settings") -> Finding:
    from trioqueue.config import without_secrets
    from trioqueue.errors import ConfigError, StoreUnavailable
    from trioqueue.node import postgres_options
    from trioqueue.store.open import migrate_store

    looking = partial(migrate_store, postgres=postgres_options(settings), print_only=True)
    try:
        found = await looking(settings.store)
    except ConfigError as error:
        return Finding("store", False, error.problems[0])
    except StoreUnavailable as error:
        return Finding("store", False, f"{error}; start it, or correct TRIOQUEUE_STORE")
    url = without_secrets(settings.store)
    if (problem := _directory_problem(url)) is not None:
        return Finding("store", False, problem)
    if found.before == found.after:
        return Finding("store", True, f"{url} is at version {found.after}")
    words = f"{url} is at version {found.before}; `trioqueue serve` and `trioqueue migrate` bring it to"
    return Finding("store", True, f"{words} {found.after}")


def _directory_problem(url: str) -> str | None:
    """Looking ahead makes no file, so it does not see that none could be made."""
    if not url.startswith("sqlite:///"):
        return None
    directory = Path(url.removeprefix("sqlite:///")).absolute().parent
    if os.access(directory, os.W_OK):
        return None
    return f"nothing can be written into {directory}: make the directory, or correct TRIOQUEUE_STORE"


async def _service(url: str) -> Finding:
    from trioqueue.client import open_client
    from trioqueue.errors import ConfigError, ServiceError, ServiceUnreachable

    try:
        async with open_client(url) as client:
            health = (await client.health()).value
    except ConfigError as error:
        return Finding("service", False, error.problems[0])
    except (ServiceError, ServiceUnreachable) as error:
        words = f"{error}; start it with `trioqueue serve`, or say where it is with --url or TRIOQUEUE_URL"
        return Finding("service", False, words)
    failing = "; ".join(f"{name}: {why}" for name, why in health.failing.items())
    return Finding("service", health.is_ok, f"{url} is {health.status}" + (f": {failing}" if failing else ""))
