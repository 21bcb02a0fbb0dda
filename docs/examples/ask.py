"""Asks a running service from Python: puts a job in, waits for it, and looks at what is there."""

import sys

import trio

from trioqueue.client import open_client


async def ask(url: str) -> None:
    async with open_client(url) as client:
        put_in = await client.enqueue({"type": "brew", "payload": {"tea": "sencha"}, "tags": ["kitchen"]})
        job = await client.job_after(put_in.value.id, wait_seconds=30)
        print(job.value.status, job.value.attempt)
        page = await client.jobs(tag="kitchen", limit=10)
        print(len(page.value.jobs), "in the kitchen")


if __name__ == "__main__":
    trio.run(ask, sys.argv[1])
