"""What can go wrong, one class for each thing a caller can do about it.

    TrioqueueError
    ├── InvalidInput            the request is wrong: change it, do not repeat it
    │   ├── MalformedJson       the text is not the JSON that we accept
    │   ├── InvalidJob          a field has a value that it cannot have
    │   ├── UnknownType         no handler has this type
    │   ├── InvalidFilter       a query parameter has a value that it cannot have
    │   └── PayloadTooLarge     more bytes than the limit
    ├── JobNotFound             no such job: it never was, or it was pruned
    ├── WrongStatus             the job's status does not allow that
    ├── RedriveRefused          the job cannot come back now: see why
    ├── LeaseLost               somebody else holds the job now: stop, settle nothing
    ├── TryAgain                not done, as far as anybody knows: wait, then repeat
    │   ├── Draining            this node takes no new jobs any more
    │   ├── ServiceUnreachable  a client: no service answers at this address
    │   └── StoreUnavailable    the store cannot be read or written now
    │       └── StoreBusy       somebody else's transaction holds what is needed; the store is well
    ├── ServiceError            a client: the service has refused; its problem says why
    ├── NotSupported            this store cannot do that: choose another store
    ├── LoopDied                a loop of the runtime ended too often: the process must end
    └── ConfigError             the settings are wrong: the service does not start

Every class builds its own message from the facts that it keeps as attributes.
"""

from collections.abc import Mapping, Sequence


class TrioqueueError(Exception):
    """The root of everything that trioqueue raises on purpose."""


class InvalidInput(TrioqueueError):
    """The request cannot be accepted as it is; repeating it gives the same answer."""


class MalformedJson(InvalidInput):
    """The text is not JSON, or is JSON that some store or client could not carry unchanged."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class InvalidJob(InvalidInput):
    """A field of a job has a value that it cannot have.

    `pointer` is a JSON pointer (RFC 6901) into the document that was sent.
    """

    def __init__(self, pointer: str, problem: str) -> None:
        super().__init__(f"{pointer or '/'}: {problem}")
        self.pointer = pointer
        self.problem = problem


class UnknownType(InvalidInput):
    """No handler is registered for this type."""

    def __init__(self, type: str, known: Sequence[str]) -> None:
        names = ", ".join(known) if known else "none"
        super().__init__(f"no handler has the type {type!r}; known types: {names}")
        self.type = type
        self.known = list(known)


class InvalidFilter(InvalidInput):
    """A query parameter has a value that it cannot have."""

    def __init__(self, parameter: str, problem: str) -> None:
        super().__init__(f"{parameter}: {problem}")
        self.parameter = parameter
        self.problem = problem


class PayloadTooLarge(InvalidInput):
    """More bytes were sent than the service accepts."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"at most {limit_bytes} bytes are accepted; keep large data elsewhere and send a reference to it"
        )
        self.limit_bytes = limit_bytes


class JobNotFound(TrioqueueError):
    """There is no such job: it never existed, or it was pruned after its retention."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"there is no job {job_id}")
        self.job_id = job_id


class WrongStatus(TrioqueueError):
    """The job's status does not allow what was asked; nothing has changed."""

    def __init__(self, job_id: str, status: str, verb: str) -> None:
        super().__init__(f"job {job_id} is {status}; it cannot be {verb}")
        self.job_id = job_id
        self.status = status
        self.verb = verb


class RedriveRefused(TrioqueueError):
    """A dead or cancelled job cannot be redriven; nothing has changed. `why` says what stands against it."""

    def __init__(self, job_id: str, why: str) -> None:
        super().__init__(f"job {job_id} cannot be redriven: {why}")
        self.job_id = job_id
        self.why = why


class LeaseLost(TrioqueueError):
    """The claim does not hold the job any more; nothing has changed.

    Its lease expired and the job was rescued, or it has been settled already. What the
    late attempt came to is dropped. Seen often, it means that leases are too short.
    """

    def __init__(self, job_id: str, epoch: int) -> None:
        super().__init__(f"the lease on job {job_id} (epoch {epoch}) was lost")
        self.job_id = job_id
        self.epoch = epoch


class TryAgain(TrioqueueError):
    """Not done now; the same call may succeed after `retry_after_seconds`."""

    retry_after_seconds: int = 1


class Draining(TryAgain):
    """This node finishes what it runs and takes nothing new."""

    retry_after_seconds = 5

    def __init__(self) -> None:
        super().__init__("this node is draining; send the job to another node, or again after the restart")


class ServiceUnreachable(TryAgain):
    """No service answers at this address, or the one that is there cannot do its work now.

    With `perhaps_done` nobody knows whether it has done what was asked.
    """

    def __init__(self, url: str, reason: str, *, perhaps_done: bool) -> None:
        doubt = "; nobody knows whether it was done" if perhaps_done else ""
        super().__init__(f"no service can be reached at {url}: {reason}{doubt}")
        self.url = url
        self.reason = reason
        self.perhaps_done = perhaps_done


class StoreUnavailable(TryAgain):
    """The store could not be read or written. Whatever was asked for has not happened, with one exception.

    When `reason` begins with `no answer` it may have: the write broke off, or its answer was lost,
    and nobody knows.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the store is not available: {reason}")
        self.reason = reason


class StoreBusy(StoreUnavailable):
    """Somebody else's transaction holds what was needed, a unique key for one. The store itself is well."""


class ServiceError(TrioqueueError):
    """A service has refused what a client asked, with a problem document (RFC 9457).

    `errors` has a pointer and a detail for each wrong field.
    """

    def __init__(
        self, status: int, title: str, detail: str, errors: Sequence[Mapping[str, str]] = ()
    ) -> None:
        super().__init__(f"{title} ({status}): {detail}")
        self.status = status
        self.title = title
        self.detail = detail
        self.errors = list(errors)


class NotSupported(TrioqueueError):
    """This kind of store cannot do what was asked, now or later; nothing has happened."""

    def __init__(self, what: str, *, needs: str) -> None:
        super().__init__(f"{what} need {needs}")
        self.what = what
        self.needs = needs


class LoopDied(TrioqueueError):
    """A loop of the runtime failed more often than its budget allows; the process ends with 70."""

    def __init__(self, loop: str, failures: int) -> None:
        super().__init__(f"the {loop} loop failed {failures} times within a minute")
        self.loop = loop
        self.failures = failures


class ConfigError(TrioqueueError):
    """The service cannot start with these settings. All problems are listed at once."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("the configuration is wrong:" + "".join(f"\n  - {problem}" for problem in problems))
        self.problems = list(problems)
