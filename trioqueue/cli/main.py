"""The command line: which commands there are. Each area has a file of its own."""

import sys

from cyclopts import App

from trioqueue.cli import doctor, host, jobs, nodes
from trioqueue.cli.asking import ExitCode

cli = App(name="trioqueue", help="A job-queue service on Trio.", exit_on_error=False)

cli.command(host.serve)
cli.command(host.worker)
cli.command(host.migrate)
cli.command(jobs.enqueue)
cli.command(jobs.app)
cli.command(nodes.nodes)
cli.command(nodes.health)
cli.command(doctor.doctor)


def main() -> None:
    """The entry point: ends the process with the command's exit code."""
    from cyclopts import CycloptsError

    try:
        cli(sys.argv[1:])
    except CycloptsError:  # which cyclopts has printed
        sys.exit(ExitCode.BAD_USAGE)
