"""The command line."""

from trioqueue.cli.main import main

__all__ = ["main"]
