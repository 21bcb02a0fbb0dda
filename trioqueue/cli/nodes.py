"""The commands about the service itself: its nodes, and whether it does its work."""

from typing import TYPE_CHECKING

from trioqueue.cli.asking import DEFAULT_URL, AsJson, ExitCode, Url, ask
from trioqueue.cli.output import duration, print_json, print_line, print_table, shorten

if TYPE_CHECKING:
    from trioqueue.client import Client


def nodes(*, json: AsJson = False, url: Url = DEFAULT_URL) -> int:
    """The nodes that share the service's store, and what each of them runs."""

    async def asking(client: "Client") -> int:
        answer = await client.nodes()
        if json:
            print_json(answer.text)
            return ExitCode.OK
        rows = [
            [
                node.node,
                str(node.workers),
                str(len(node.running)),
                f"{duration(node.silent_seconds)} ago",
                "stopping" if node.stopping else "",
                "any" if node.types is None else shorten(", ".join(node.types)),
            ]
            for node in answer.value.nodes
        ]
        print_table(["node", "workers", "running", "seen", "state", "types"], rows)
        return ExitCode.OK

    return ask(url, asking)


def health(*, json: AsJson = False, url: Url = DEFAULT_URL) -> int:
    """Whether the service does its work, and how many jobs there are. Exit code 1 when it does not."""

    async def asking(client: "Client") -> int:
        answer = await client.health()
        found = answer.value
        if json:
            print_json(answer.text)
        else:
            print_line(f"{found.status}{' (demo mode)' if found.demo else ''}")
            for name, why in found.failing.items():
                print_line(f"failing: {name}: {why}")
            print_table(["status", "jobs"], [[status, str(count)] for status, count in found.jobs.items()])
        return ExitCode.OK if found.is_ok else ExitCode.NO

    return ask(url, asking)
