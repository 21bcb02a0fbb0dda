"""A client of a running service: what people ask of it, typed answers, errors made of problems."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import quote

import httpx2
import msgspec
import trio

from trioqueue.errors import ConfigError, ServiceError, ServiceUnreachable
from trioqueue.jobs.job import FINAL
from trioqueue.wire.jobs import CancelBody, JobBody, JobPageBody, RedriveBody
from trioqueue.wire.nodes import HealthBody, NodesBody

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0
REDRIVE_SECONDS = 600.0
"""Many thousands of jobs go back in batches, and the answer comes after the last."""

FIRST_POLL_SECONDS = 0.05
LONGEST_POLL_SECONDS = 1.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What the service said: `text` is its JSON as it came, `value` the same, typed."""

    status: int
    text: bytes
    value: T


class Client:
    """Asks one service. Raises `ServiceError` when it refuses, `ServiceUnreachable` when it is away."""

    def __init__(self, url: str, http: httpx2.AsyncClient) -> None:
        self.url = url
        self._http = http

    async def enqueue(self, job: Mapping[str, Any]) -> Answer[JobBody]:
        """Put a job in; its fields are those of `POST /jobs`. Status 200: its unique key is in use."""
        return await self._ask("POST", "/jobs", JobBody, body=msgspec.json.encode(job))

    async def jobs(self, **filters: str | int | None) -> Answer[JobPageBody]:
        """A page of jobs; the filters are those of `GET /jobs`, None means any."""
        return await self._ask("GET", "/jobs", JobPageBody, parameters=filters)

    async def job(self, job_id: str) -> Answer[JobBody]:
        """One job with its attempts."""
        return await self._ask("GET", f"/jobs/{quote(job_id, safe='')}", JobBody)

    async def job_after(self, job_id: str, *, wait_seconds: float) -> Answer[JobBody]:
        """The job once it has ended, or as it is when the wait is over.

        Asks again and again, ever more slowly, at least each second. A service that is away for a
        while is waited for as well.
        """
        end = trio.current_time() + wait_seconds
        pause = FIRST_POLL_SECONDS
        while True:
            left = end - trio.current_time()
            try:
                answer = await self.job(job_id)
                if answer.value.status in FINAL or left <= 0:
                    return answer
            except ServiceUnreachable:
                if left <= 0:
                    raise
            await trio.sleep(min(pause, left))
            pause = min(pause * 1.5, LONGEST_POLL_SECONDS)

    async def cancel(self, job_id: str, *, wait_seconds: float = 0.0) -> Answer[CancelBody]:
        """Stop a job, and wait so long until nothing of it runs any more."""
        return await self._ask(
            "POST",
            f"/jobs/{quote(job_id, safe='')}/cancel",
            CancelBody,
            parameters={"wait": f"{wait_seconds:.6f}".rstrip("0").rstrip(".")},
            seconds=ANSWER_SECONDS + wait_seconds,
        )

    async def redrive(self, job_id: str) -> Answer[JobBody]:
        """Put a dead or cancelled job back."""
        return await self._ask("POST", f"/jobs/{quote(job_id, safe='')}/redrive", JobBody)

    async def redrive_matching(self, wanted: Mapping[str, Any]) -> Answer[RedriveBody]:
        """Put back all that match, or count them; its fields are those of `POST /jobs/redrive`."""
        body = msgspec.json.encode(wanted)
        return await self._ask("POST", "/jobs/redrive", RedriveBody, body=body, seconds=REDRIVE_SECONDS)

    async def nodes(self) -> Answer[NodesBody]:
        """The nodes that share the service's store."""
        return await self._ask("GET", "/nodes", NodesBody)

    async def health(self) -> Answer[HealthBody]:
        """Whether the service does its work. That it does not is an answer too, no error."""
        return await self._ask("GET", "/health", HealthBody, red_is_an_answer=True)

    async def _ask(
        self,
        method: str,
        path: str,
        shape: type[T],
        *,
        body: bytes | None = None,
        parameters: Mapping[str, str | int | None] | None = None,
        seconds: float = ANSWER_SECONDS,
        red_is_an_answer: bool = False,
    ) -> Answer[T]:
        given = {name: value for name, value in (parameters or {}).items() if value is not None}
        try:
            response = await self._http.request(
                method,
                path,
                params=given or None,
                content=body,
                headers={} if body is None else {"Content-Type": "application/json"},
                timeout=httpx2.Timeout(seconds, connect=CONNECT_SECONDS),
            )
        except httpx2.ConnectTimeout as error:
            raise ServiceUnreachable(self.url, "it does not answer", perhaps_done=False) from error
        except httpx2.ConnectError as error:
            raise ServiceUnreachable(self.url, str(error), perhaps_done=False) from error
        except httpx2.TimeoutException as error:
            reason = f"no answer within {seconds:g} seconds"
            raise ServiceUnreachable(self.url, reason, perhaps_done=method != "GET") from error
        except httpx2.RequestError as error:
            reason = f"the connection broke off: {error}" if str(error) else "the connection broke off"
            raise ServiceUnreachable(self.url, reason, perhaps_done=method != "GET") from error
        is_json = response.headers.get("content-type", "").startswith("application/json")
        if not (response.is_success or (red_is_an_answer and response.status_code == 503 and is_json)):
            self._refuse(response)
        try:
            value = msgspec.json.decode(response.content, type=shape)
        except msgspec.MsgspecError:
            raise self._foreign(response) from None
        return Answer(response.status_code, response.content, value)

    def _refuse(self, response: httpx2.Response) -> NoReturn:
        try:
            problem = msgspec.json.decode(response.content, type=_Problem)
        except msgspec.MsgspecError:
            problem = None
        if response.status_code in (502, 503, 504):
            reason = problem.detail if problem else f"it answered {response.status_code}"
            raise ServiceUnreachable(self.url, reason, perhaps_done="no answer" in reason)
        if problem is None:
            raise self._foreign(response)
        raise ServiceError(problem.status, problem.title, problem.detail, problem.errors)

    def _foreign(self, response: httpx2.Response) -> ServiceError:
        detail = f"this is no answer of a trioqueue that we know; is {self.url} the right address?"
        return ServiceError(response.status_code, response.reason_phrase, detail)


class _Problem(msgspec.Struct, frozen=True, kw_only=True):
    status: int
    title: str
    detail: str
    errors: list[dict[str, str]] = []


@asynccontextmanager
async def open_client(
    url: str, *, transport: httpx2.AsyncBaseTransport | None = None
) -> AsyncIterator[Client]:
    """A client of the service at `url`, until the block ends. Raises `ConfigError` when that is no URL.

    `transport` stands for the network in tests.
    """
    address = check_url(url)
    async with httpx2.AsyncClient(base_url=address, transport=transport) as http:
        yield Client(url, http)


def check_url(url: str) -> httpx2.URL:
    """The URL of a service, or `ConfigError`."""
    try:
        address = httpx2.URL(url)
        usable = address.scheme in ("http", "https") and address.host and not address.query
    except httpx2.InvalidURL:
        usable = False
    if not usable:
        raise ConfigError(
            [
                f"{url[:200]!r} is no address of a service; write --url or TRIOQUEUE_URL like http://127.0.0.1:8080"
            ]
        )
    return address
