"""The commands about jobs: put one in, list them, look at one, cancel one, put dead ones back."""

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from trioqueue.cli.asking import DEFAULT_URL, AsJson, ExitCode, Seconds, Url, ask, complain
from trioqueue.cli.output import absolute, harmless, print_json, print_line, print_table, relative, shorten

if TYPE_CHECKING:
    import msgspec

    from trioqueue.client import Client
    from trioqueue.wire.jobs import JobBody

app = App(name="jobs", help="Look at jobs, cancel them, put dead ones back.")


def enqueue(
    type: str,
    payload: Annotated[str, Parameter(allow_leading_hyphen=True)] = "{}",
    *,
    queue: str | None = None,
    priority: int | None = None,
    delay: Seconds | None = None,
    run_at: str | None = None,
    unique_key: str | None = None,
    tag: Annotated[list[str] | None, Parameter(negative="")] = None,
    wait: Seconds | None = None,
    json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> int:
    """Put a job in, and print its id.

    With --wait: exit code 0 when it has completed, 1 when it is dead or cancelled, 75 when it has not
    ended in time.

    Parameters
    ----------
    type
        Which handler runs it.
    payload
        The handler's arguments as JSON; - reads them from standard input.
    queue
        The lane to put it into.
    priority
        Lower runs first.
    delay
        Run it so much later: 90, 30s, 5m, 12h, 7d.
    run_at
        Not before this time, like 2030-01-31T12:00:00Z.
    unique_key
        While a job with this key is pending or processing, it is the answer, and nothing is stored.
    tag
        A word to find it by; may be repeated.
    wait
        Wait so long until it has ended.
    """
    from trioqueue.errors import MalformedJson

    try:
        payload_json = _payload(payload)
    except MalformedJson as error:
        return complain(f"the payload is not acceptable JSON: {error}", ExitCode.BAD_USAGE)
    fields: dict[str, Any] = {  # of every shape that JSON has
        "queue": queue,
        "priority": priority,
        "delay_seconds": delay,
        "run_at": run_at,
        "unique_key": unique_key,
        "tags": tag,
    }
    job = {name: value for name, value in fields.items() if value is not None}
    job |= {"type": type, "payload": payload_json}

    async def asking(client: "Client") -> int:
        answer = await client.enqueue(job)
        if answer.status == 200:
            complain("a job with this unique key is pending or processing; nothing was stored", ExitCode.OK)
        if not json:
            print_line(answer.value.id)
        if wait is not None:
            sys.stdout.flush()
            answer = await client.job_after(answer.value.id, wait_seconds=wait)
        if json:
            print_json(answer.text)
        return ExitCode.OK if wait is None else _verdict(answer.value, wait, quiet=json)

    return ask(url, asking)


def _payload(given: str) -> "msgspec.Raw":
    """The payload as it was written, from standard input for `-`; `MalformedJson` if it is none."""
    import msgspec

    from trioqueue.jobs import codec

    text = sys.stdin.buffer.read() if given == "-" else given.encode(errors="surrogateescape")
    codec.decode(text)
    return msgspec.Raw(text)


def _verdict(job: "JobBody", waited: float, *, quiet: bool) -> ExitCode:
    """How the job has ended, if it has, as the exit code, and in words unless `quiet`."""
    from trioqueue.jobs.job import FINAL, Status

    if not quiet:
        print_line(f"{job.status}: {job.reason or bytes(job.result).decode()}")
    if job.status not in FINAL:
        return complain(f"job {job.id} has not ended within {waited:g} seconds", ExitCode.NOT_YET)
    return ExitCode.OK if job.status is Status.COMPLETED else ExitCode.NO


@app.command(name="list")
def list_jobs(
    *,
    status: str | None = None,
    type: str | None = None,
    queue: str | None = None,
    tag: str | None = None,
    limit: int = 20,
    json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> int:
    """Jobs, newest first.

    Parameters
    ----------
    status
        Only pending, processing, completed, cancelled or dead ones.
    type
        Only jobs of this type.
    queue
        Only jobs of this queue.
    tag
        Only jobs with this tag.
    limit
        How many at most: 1 to 500.
    """

    async def asking(client: "Client") -> int:
        answer = await client.jobs(status=status, type=type, queue=queue, tag=tag, limit=limit)
        if json:
            print_json(answer.text)
            return ExitCode.OK
        now = _now()
        titles = ["id", "status", "type", "queue", "attempt", "created", "due", "payload", "reason"]
        print_table(titles, [_row(job, now) for job in answer.value.jobs])
        if answer.value.next_cursor is not None:
            complain(f"there are more than these {limit}; ask for more with --limit", ExitCode.OK)
        return ExitCode.OK

    return ask(url, asking)


@app.command
def show(id: str, *, json: AsJson = False, url: Url = DEFAULT_URL) -> int:
    """One job with everything that is known of it, and its attempts."""

    async def asking(client: "Client") -> int:
        answer = await client.job(id)
        if json:
            print_json(answer.text)
        else:
            _print_job(answer.value)
        return ExitCode.OK

    return ask(url, asking)


@app.command
def cancel(id: str, *, wait: Seconds = 10.0, json: AsJson = False, url: Url = DEFAULT_URL) -> int:
    """Stop a job, and say whether it has really ended.

    Exit code 75 when something of it still unwinds as the wait is over: ask again.

    Parameters
    ----------
    wait
        Wait so long until nothing of it runs any more: at most 60.
    """

    async def asking(client: "Client") -> int:
        answer = await client.cancel(id, wait_seconds=wait)
        receipt = answer.value
        if json:
            print_json(answer.text)
        elif receipt.confirmed:
            print_line(f"{receipt.job.id} is {receipt.job.status}, and nothing of it runs any more")
        if receipt.confirmed:
            return ExitCode.OK
        words = f"job {receipt.job.id} is asked to stop and still unwinds on {receipt.job.node}; ask again"
        return complain(words, ExitCode.NOT_YET)

    return ask(url, asking)


@app.command
def redrive(
    id: str | None = None,
    *,
    status: str | None = None,
    type: str | None = None,
    queue: str | None = None,
    tag: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> int:
    """Put a dead or cancelled job back, or with --status all that match: due at once, with a full budget.

    Parameters
    ----------
    id
        The one job. Without it, --status says which ones.
    status
        dead or cancelled: all jobs with this status, and with the type, queue and tag that are given.
    type
        Only jobs of this type.
    queue
        Only jobs of this queue.
    tag
        Only jobs with this tag.
    dry_run
        Only count them.
    """
    given = {"status": status, "type": type, "queue": queue, "tag": tag}
    wanted: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if (id is None) == (status is None) or (id is not None and (wanted or dry_run)):
        words = (
            "say which: a job's id and nothing else, or --status dead with or without --type, --queue, --tag"
        )
        return complain(words, ExitCode.BAD_USAGE)

    async def asking(client: "Client") -> int:
        if id is not None:
            one = await client.redrive(id)
            if json:
                print_json(one.text)
            else:
                print_line(f"{one.value.id} is {one.value.status} again")
            return ExitCode.OK
        many = await client.redrive_matching(wanted | {"dry_run": dry_run})
        if json:
            print_json(many.text)
        elif dry_run:
            print_line(f"{many.value.matched} would be redriven")
        else:
            print_line(
                f"{many.value.redriven} of {many.value.matched} redriven, {many.value.skipped} skipped"
            )
        return ExitCode.OK

    return ask(url, asking)


def _now() -> datetime:
    from trioqueue.clock import current_clock

    return current_clock().now()


def _row(job: "JobBody", now: datetime) -> list[str]:
    due = relative(job.run_at, now) if job.status == "pending" else ""
    return [
        job.id,
        job.status,
        job.type,
        job.queue,
        f"{job.attempt}/{job.max_attempts}",
        relative(job.created_at, now),
        due,
        shorten(bytes(job.payload).decode()),
        shorten(job.reason or ""),
    ]


def _print_job(job: "JobBody") -> None:
    for name in job.__struct_fields__:
        if name == "attempts":
            continue
        value = getattr(job, name)
        if (shown := _shown(value)) not in ("", "null"):
            print_line(f"{name + ':':<21}{shown}")
    for attempt in job.attempts or []:
        print_line("")
        at = f"on {attempt.node}, {absolute(attempt.started_at)} to {absolute(attempt.ended_at)}"
        print_line(f"attempt {attempt.number}: {attempt.outcome} {at}")
        for line in (attempt.error or "").splitlines():
            sys.stdout.write(f"  {harmless(line)}\n")


def _shown(value: object) -> str:
    import msgspec

    match value:
        case None:
            return ""
        case datetime():
            return absolute(value)
        case msgspec.Raw():
            return bytes(value).decode()
        case tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)
