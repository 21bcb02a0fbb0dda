"""Send every file of Python's standard library through a running trioqueue, and check every result.

    python docs/examples/describe_library.py http://127.0.0.1:8000 [HOW_MANY]

Needs nothing but the standard library. Start the service first, with the handlers beside this file:

    cd docs/examples && TRIOQUEUE_HANDLERS=library_files:handlers hypercorn trioqueue.app:app
"""

import hashlib
import http.client
import json
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def library_files(how_many: int | None = None) -> list[Path]:
    """The files of the standard library, spread evenly when only some are wanted."""
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(path for path in root.rglob("*") if path.is_file() and "site-packages" not in path.parts)
    step = 1 if how_many is None else max(len(files) // how_many, 1)
    return files[::step][:how_many]


def expected(path: Path) -> dict[str, Any]:
    """The same facts, computed directly."""
    content = path.read_bytes()
    compressed = subprocess.run(["gzip", "-nc"], input=content, capture_output=True, check=True).stdout
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "gzip_bytes": len(compressed),
        "lines": content.count(b"\n"),
    }


class Client:
    """One keep-alive connection to the service."""

    def __init__(self, url: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)

    def call(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        text = None if body is None else json.dumps(body)
        self._connection.request(method, path, text, {"Content-Type": "application/json"})
        response = self._connection.getresponse()
        answer: dict[str, Any] = json.loads(response.read())
        if response.status >= 400:
            raise SystemExit(f"{method} {path}: {response.status} {answer}")
        return answer


def run(url: str, how_many: int | None = None) -> None:
    client = Client(url)
    files = library_files(how_many)
    print(f"{len(files)} files")
    jobs = {
        client.call("POST", "/jobs", {"type": "describe_file", "payload": {"path": str(path)}})["id"]: path
        for path in files
    }
    wrong = 0
    for done, (job_id, path) in enumerate(jobs.items(), 1):
        job = client.call("GET", f"/jobs/{job_id}")
        while job["status"] in ("pending", "processing"):
            time.sleep(0.05)
            job = client.call("GET", f"/jobs/{job_id}")
        if job["status"] != "completed" or job["result"] != expected(path):
            wrong += 1
            print(f"WRONG {path}: {job['status']} {job['reason']} {job['result']}")
        if done % 500 == 0:
            print(f"{done} checked")
    print(f"{len(jobs)} jobs, {wrong} wrong")
    if wrong:
        raise SystemExit(1)


if __name__ == "__main__":
    run(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else None)
