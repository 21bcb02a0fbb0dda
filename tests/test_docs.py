"""The documentation is true: its examples run, its links lead somewhere, and nothing is left out."""

import http.client
import inspect
import json
import re
import runpy
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.web.hosts import Host, start_host
from trioqueue import Context, errors
from trioqueue.app import app
from trioqueue.cli import asking
from trioqueue.errors import (
    ConfigError,
    LeaseLost,
    LoopDied,
    NotSupported,
    ServiceError,
    ServiceUnreachable,
    TrioqueueError,
)
from trioqueue.jobs.handlers import Handlers
from trioqueue.jobs.job import AttemptOutcome, Status
from trioqueue.web import problems
from trioqueue.web.process import ExitCode
from trioqueue.wire.jobs import JobBody, JobRequest
from trioqueue.wire.nodes import NodeBody

DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]

FENCE = re.compile(r"^(?:<!-- file: (\S+) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
OWN_PROBLEM = re.compile(r'\b[Pp]roblem\(\s*(\d{3}),\s*"([a-z-]+)"')
PROBLEM_ROW = re.compile(r"^\| `([a-z-]+)` \| ([45]\d\d) \|", re.MULTILINE)

ROUTER_PROBLEMS = {("method-not-allowed", 405), ("unsupported-media-type", 415)}
"""What the router refuses; `problems.from_http` takes the slug from the status's phrase."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `file` is the example that it claims to be a part of."""

    page: Path
    number: int
    file: str | None
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.number}"


def blocks(language: str) -> list[Block]:
    return [
        Block(page, number, file or None, found, text)
        for page in PAGES
        for number, (file, found, text) in enumerate(FENCE.findall(page.read_text()), 1)
        if found == language
    ]


def page(name: str) -> str:
    return (DOCS / name).read_text()


# Examples


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_a_python_example_is_true(block: Block, tmp_path: Path) -> None:
    if block.file is not None:
        # Whoever reads the page sees a part of a file that other tests run.
        assert block.text in (ROOT / block.file).read_text()
        return
    script = tmp_path / "example.py"
    script.write_text(block.text)
    names = runpy.run_path(str(script), run_name="example")
    if "handlers" in names:
        assert isinstance(names["handlers"], Handlers)
        assert names["handlers"].types


@pytest.mark.parametrize("block", blocks("json"), ids=str)
def test_a_json_example_is_json(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", blocks("toml"), ids=str)
def test_a_toml_example_is_toml(block: Block) -> None:
    tomllib.loads(block.text)


def test_the_story_of_the_readme_passes_where_it_lies() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(EXAMPLES), "test_first_handlers.py"]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_readme_has_the_set_up_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    for command in (
        "pip install . && hypercorn trioqueue.app:app",
        "pip install --editable '.[test]' && pytest",
    ):
        assert f"\n    {command}\n" in readme


# A real service, started as the README says


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Host]:
    with start_host("asyncio", cwd=tmp_path) as host:
        yield host


@pytest.fixture
def service_of_examples(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Host]:
    """The exact command, with the handlers of one of the examples."""
    environment = {
        "TRIOQUEUE_HANDLERS": f"{request.param}:handlers",
        "TRIOQUEUE_STORE": f"sqlite:///{tmp_path}/jobs.db",
    }
    with start_host("asyncio", cwd=EXAMPLES, env=environment) as host:
        yield host


def call(host: Host, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", host.port, timeout=30)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, path, text, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def test_the_tutorial_loop(demo: Host, tmp_path: Path) -> None:
    for number in range(1, 11):
        status, job = call(demo, "POST", "/jobs", {"type": f"job-{number}", "payload": {}})
        assert (status, job["status"]) == (201, "pending")

    jobs = list_jobs(demo)
    assert [job["type"] for job in jobs] == [f"job-{number}" for number in range(10, 0, -1)]
    assert call(demo, "GET", "/health")[1]["demo"] is True
    assert (tmp_path / "trioqueue.db").exists()

    deadline = time.monotonic() + 30
    while any(job["status"] != "completed" for job in jobs):
        assert time.monotonic() < deadline, jobs
        time.sleep(0.05)
        jobs = list_jobs(demo)


def list_jobs(host: Host) -> list[dict[str, Any]]:
    jobs: list[dict[str, Any]] = call(host, "GET", "/jobs")[1]["jobs"]
    return jobs


@pytest.mark.parametrize("service_of_examples", ["first_handlers"], indirect=True)
def test_the_first_handler_brews_and_can_be_stopped(service_of_examples: Host) -> None:
    body = {"type": "brew", "payload": {"tea": "sencha", "cups": 2}}
    status, job = call(service_of_examples, "POST", "/jobs", body)
    assert status == 201

    status, receipt = call(service_of_examples, "POST", f"/jobs/{job['id']}/cancel?wait=5")

    assert (status, receipt["confirmed"]) == (200, True)
    assert receipt["job"]["status"] == "cancelled"
    assert call(service_of_examples, "POST", "/jobs", {"type": "job-1", "payload": {}})[0] == 422


@pytest.mark.timeout(240)
def test_the_client_asks_from_python(demo: Host) -> None:
    command = [sys.executable, "ask.py", f"http://127.0.0.1:{demo.port}"]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.splitlines() == ["completed 1", "1 in the kitchen"], done.stderr


@pytest.mark.parametrize("service_of_examples", ["library_files"], indirect=True)
def test_files_of_the_standard_library_come_back_right(service_of_examples: Host) -> None:
    command = [sys.executable, "describe_library.py", f"http://127.0.0.1:{service_of_examples.port}", "60"]
    done = subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr + service_of_examples.output()
    assert "60 jobs, 0 wrong" in done.stdout


def test_a_wrong_configuration_is_told_as_documented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIOQUEUE_STORE", "mysql://nope")
    monkeypatch.setenv("TRIOQUEUE_LEASE_SECOND", "30")
    command = [sys.executable, "-m", "trioqueue", "serve"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == ExitCode.BAD_CONFIG
    [block] = [block for block in blocks("text") if block.page.name == "configuration.md"]
    assert done.stderr.endswith(block.text)


# Nothing is left out


def test_every_route_is_documented() -> None:
    text = page("http-api.md")
    for rule in app.url_map.iter_rules():
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            assert f"`{method} {rule.rule}`" in text, f"{method} {rule.rule}"


def test_every_problem_is_documented_and_no_other() -> None:
    known = {(slug, status) for status, slug, _ in problems.KINDS.values()} | ROUTER_PROBLEMS
    for source in (ROOT / "trioqueue" / "web").glob("*.py"):
        known |= {(slug, int(status)) for status, slug in OWN_PROBLEM.findall(source.read_text())}
    documented = {(slug, int(status)) for slug, status in PROBLEM_ROW.findall(page("http-api.md"))}
    assert documented == known


def test_every_error_that_reaches_a_user_is_documented() -> None:
    elsewhere = {
        LeaseLost: ("handlers.md", "`LeaseLost`"),
        NotSupported: ("handlers.md", "`NotSupported`"),
        ServiceError: ("command-line.md", "| 4 | the service refused it"),
        ServiceUnreachable: ("command-line.md", "| 69 | the service cannot be reached"),
        LoopDied: ("operating.md", "| 70 | crashed: a loop of the node died"),
        ConfigError: ("operating.md", "| 78 | bad configuration"),
    }
    for error in vars(errors).values():
        if not (inspect.isclass(error) and issubclass(error, TrioqueueError)) or error.__subclasses__():
            continue
        if error in elsewhere:
            name, words = elsewhere[error]
            assert words in page(name), error.__name__
        else:
            assert error in problems.KINDS, f"{error.__name__} has no answer"


def test_every_exit_code_is_documented() -> None:
    for code in ExitCode:
        assert f"\n| {code.value} | " in page("operating.md"), code


def test_every_exit_code_of_a_client_is_documented() -> None:
    for code in asking.ExitCode:
        assert f"\n| {code.value} | " in page("command-line.md"), code


def test_every_field_of_a_job_is_documented() -> None:
    text = page("http-api.md")
    for field in JobRequest.__struct_fields__:
        assert f"\n| `{field}` |" in text, field
    for field in JobBody.__struct_fields__:
        assert f'"{field}": ' in text or f"`{field}`" in text, field


def test_every_field_of_a_node_is_documented() -> None:
    text = page("http-api.md").partition("\n## Nodes\n")[2].partition("\n## ")[0]
    for name in NodeBody.__struct_encode_fields__:
        assert f'"{name}": ' in text, name


def test_every_status_and_outcome_is_documented() -> None:
    text = page("lifecycle.md")
    for status in Status:
        assert f"\n- **{status}**: " in text, status
    for outcome in AttemptOutcome:
        assert f"\n| `{outcome}` | " in text, outcome


def test_everything_that_a_handler_may_ask_for_is_documented() -> None:
    text = page("handlers.md")
    for name in dir(Context):
        if not name.startswith("_"):
            assert f"ctx.{name}" in text, name


def test_every_dependency_is_justified() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = page("decisions/0002-dependencies.md")
    wanted = [project["dependencies"], *project["optional-dependencies"].values()]
    for requirement in (requirement for group in wanted for requirement in group):
        name = re.split(r"[^\w-]", requirement, maxsplit=1)[0]
        assert f"\n- `{name}`: " in text, name


# Links


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), target


def test_every_page_is_on_the_map() -> None:
    linked = {
        (start.parent / target.partition("#")[0]).resolve()
        for start in (DOCS / "index.md", DOCS / "decisions" / "README.md")
        for target in LINK.findall(start.read_text())
    }
    assert {path.resolve() for path in DOCS.rglob("*.md")} - {(DOCS / "index.md").resolve()} <= linked


def anchors(path: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
