"""The command line against a real service: what it prints, and what it ends with."""

import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.handlers import handlers
from trioqueue import Handlers
from trioqueue.cli.main import main
from trioqueue.testing import ServerUnderTest

NOWHERE = "http://127.0.0.1:1"


@pytest.fixture
def tq_handlers() -> Handlers:
    return handlers


class Shell:
    """Calls the command line in this process, as the installed command does."""

    def __init__(self, patch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]) -> None:
        self._patch = patch
        self._capture = capture

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._patch.setattr(sys, "argv", ["trioqueue", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        output, errors = self._capture.readouterr()
        return int(ended.value.code or 0), output, errors

    def json(self, *words: str) -> Any:
        code, output, errors = self(*words, "--json")
        assert (code, errors) == (0, "")
        return json.loads(output)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return Shell(monkeypatch, capsys)


@pytest.fixture
def served(shell: Shell, monkeypatch: pytest.MonkeyPatch, tq_server: ServerUnderTest) -> Shell:
    monkeypatch.setenv("TRIOQUEUE_URL", tq_server.url)
    return shell


def test_a_job_is_put_in_waited_for_listed_and_shown(served: Shell) -> None:
    code, output, errors = served(
        "enqueue", "remind", '{"user": 7}', "--tag", "a", "--tag", "b", "--wait", "30"
    )
    assert (code, errors) == (0, "")
    job_id, ended = output.splitlines()
    assert ended == 'completed: "reminded 7"'

    code, table, _ = served("jobs", "list", "--tag", "b")
    titles, row = table.splitlines()
    assert code == 0
    assert titles.split()[:3] == ["ID", "STATUS", "TYPE"]
    assert row.startswith(f"{job_id}  completed  remind  default  1/")
    assert '{"user": 7}' in row or '{"user":7}' in row
    assert " s ago" in row

    _, shown, _ = served("jobs", "show", job_id)
    assert f"id:                  {job_id}\n" in shown
    assert "tags:                a, b\n" in shown
    assert "attempt 1: completed on " in shown


def test_json_is_one_document_as_the_service_said_it(served: Shell) -> None:
    job = served.json("enqueue", "remind", '{"user": 7}', "--wait", "30")
    assert job["status"] == "completed"
    assert served.json("jobs", "show", job["id"]) == job
    assert [listed["id"] for listed in served.json("jobs", "list")["jobs"]] == [job["id"]]
    assert served.json("jobs", "list", "--status", "dead") == {"jobs": [], "next_cursor": None}
    assert served.json("nodes")["nodes"][0]["types"] == sorted(handlers.types)
    assert served.json("health")["status"] == "ok"


def test_a_delayed_job_has_not_ended_and_can_be_cancelled(served: Shell) -> None:
    asked = ("enqueue", "remind", '{"user": 7}', "--delay", "5m", "--unique-key", "k")
    _, job_id, _ = served(*asked)
    assert "in 4 m" in served("jobs", "list")[1]

    code, again, note = served(*asked)
    assert (code, again) == (0, job_id)
    assert "unique key" in note

    code, _, errors = served(*asked, "--wait", "0")
    assert code == 75
    assert "has not ended within 0 seconds" in errors

    code, output, _ = served("jobs", "cancel", job_id.strip())
    assert code == 0
    assert output.endswith("is cancelled, and nothing of it runs any more\n")
    assert served("jobs", "cancel", job_id.strip())[0] == 0


def test_a_job_that_ends_badly_is_a_no(served: Shell) -> None:
    code, output, _ = served("enqueue", "charge", "--wait", "30")
    job_id, ended = output.splitlines()
    assert code == 1
    assert ended.startswith("dead: ")
    shown = served("jobs", "show", job_id)[1]
    assert "\x1b" not in output + shown
    assert "the bank is \\x1b[31mclosed" in shown


def test_dead_jobs_are_put_back_one_or_many(served: Shell) -> None:
    dead = [served("enqueue", "charge", "--wait", "30")[1].splitlines()[0] for _ in range(2)]
    assert served("jobs", "redrive", "--status", "dead", "--dry-run")[:2] == (0, "2 would be redriven\n")
    assert served("jobs", "redrive", dead[0])[:2] == (0, f"{dead[0]} is pending again\n")
    _, redriven, _ = served("jobs", "redrive", "--status", "dead", "--type", "charge")
    assert redriven in ("1 of 1 redriven, 0 skipped\n", "2 of 2 redriven, 0 skipped\n")
    assert served.json("jobs", "redrive", "--status", "cancelled") == {
        "matched": 0,
        "redriven": 0,
        "skipped": 0,
    }


@pytest.mark.parametrize(
    "words", [(), ("some-id", "--status", "dead"), ("some-id", "--dry-run"), ("--type", "a")]
)
def test_which_jobs_to_redrive_must_be_plain(served: Shell, words: tuple[str, ...]) -> None:
    code, output, errors = served("jobs", "redrive", *words)
    assert (code, output) == (2, "")
    assert errors.startswith("trioqueue: say which: ")


def test_a_running_job_is_not_waited_for_longer_than_asked(served: Shell) -> None:
    code, output, errors = served("enqueue", "import", "--wait", "0.2s")
    assert code == 75
    assert "has not ended within 0.2 seconds" in errors
    assert served("jobs", "cancel", output.splitlines()[0], "--wait", "30s")[0] == 0


def test_nodes_and_health_are_tables(served: Shell) -> None:
    code, table, _ = served("nodes")
    assert code == 0
    assert table.splitlines()[0].split() == ["NODE", "WORKERS", "RUNNING", "SEEN", "STATE", "TYPES"]
    code, output, _ = served("health")
    assert code == 0
    assert output.startswith("ok\nSTATUS      JOBS\npending     0\n")


def test_what_the_service_refuses_is_told_in_one_line(served: Shell) -> None:
    for words, told in [
        (("enqueue", "remind", '{"user": "ann"}'), "/payload/user: expected `int`, got `str`"),
        (("enqueue", "nosuch"), "known types: "),
        (("enqueue", "remind", '{"user": 1}', "--run-at", "2030-01-01T00:00:00"), "time zone"),
        (("jobs", "show", "nosuch"), "there is no job nosuch"),
        (("jobs", "show", "../nodes"), "trioqueue: "),
        (("jobs", "list", "--status", "failed"), "status: 'failed' is not one of"),
        (("jobs", "cancel", "nosuch", "--wait", "0"), "there is no job nosuch"),
    ]:
        code, output, errors = served(*words)
        assert (code, output) == (4, ""), words
        assert told in errors
        assert errors.count("\n") == 1


def test_the_doctor_finds_nothing_or_says_what_to_do(
    served: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("TRIOQUEUE_HANDLERS", "tests.cli.handlers:handlers")
    code, output, _ = served("doctor")
    assert code == 0, output
    assert [line.split()[:2] for line in output.splitlines()] == [
        ["ok", f"{name}:"] for name in ("settings", "handlers", "store", "service")
    ]
    assert list((tmp_path / "here").iterdir()) == []

    monkeypatch.setenv("TRIOQUEUE_HANDLERS", "nowhere:handlers")
    monkeypatch.setenv("TRIOQUEUE_STORE", "sqlite:///nowhere/jobs.db")
    code, output, _ = served("doctor", "--url", NOWHERE)
    assert code == 1
    assert "WRONG  handlers: TRIOQUEUE_HANDLERS='nowhere:handlers': there is no module 'nowhere'" in output
    assert "WRONG  store: " in output
    assert "WRONG  service: " in output

    monkeypatch.setenv("TRIOQUEUE_LEASE_SECOND", "3")
    code, output, _ = served("doctor", "--json")
    assert code == 1
    assert json.loads(output)["findings"][0]["check"] == "settings"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("jobs", "list", "--url", NOWHERE), 69, "--url or TRIOQUEUE_URL"),
        (("enqueue", "remind", "--url", NOWHERE, "--json"), 69, "no service can be reached"),
        (("health", "--url", "ftp://nowhere"), 78, "no address of a service"),
        (("enqueue", "remind", "{'user': 7}"), 2, "not acceptable JSON"),
        (("enqueue", "remind", "--delay", "soon"), 2, "write a duration"),
        (("jobs", "list", "--limit", "x"), 2, "limit"),
        (("jobs", "nosuch"), 2, "nosuch"),
        (("enqueue",), 2, "--type"),
    ],
)
def test_what_cannot_be_asked_has_its_exit_code(
    shell: Shell, words: tuple[str, ...], code: int, told: str
) -> None:
    ended, output, errors = shell(*words)
    assert (ended, output) == (code, "")
    assert told in errors.replace("\n", " ")


class Stranger(http.server.BaseHTTPRequestHandler):
    """Something else that listens at the address."""

    def do_GET(self) -> None:  # http.server's name
        self.send_response(503 if self.path == "/nodes" else 200)
        self.end_headers()
        self.wfile.write(b"<h1>It works!</h1>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_stranger_at_the_address_is_told_from_a_service(shell: Shell, stranger: str) -> None:
    code, output, errors = shell("jobs", "list", "--url", stranger)
    assert (code, output) == (4, "")
    assert "is no answer of a trioqueue" in errors
    assert shell("nodes", "--url", stranger)[0] == 69


def test_help_loads_no_web_server_and_no_client() -> None:
    script = (
        "import sys\nfrom trioqueue.cli.main import cli\ncli.help_print([])\n"
        "print([name for name in ('quart', 'hypercorn', 'httpx2', 'apsw') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.endswith("\n[]\n")
