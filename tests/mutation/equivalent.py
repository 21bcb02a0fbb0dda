"""Mutants that behave as the original does, so that no test can tell them: each with the reason."""

EQUIVALENT = {
    (
        "trioqueue/jobs/lifecycle.py",
        "wait_seconds = DEFAULT_RETRY.wait_seconds(crashes - 2, jitter) if crashes > 1 else None",
    ): "only the second crash waits, and backoff counts from 1 at the least",
    (
        "trioqueue/jobs/outcome.py",
        "case _: return None",
    ): "a function without a return returns None",
    (
        "trioqueue/jobs/outcome.py",
        'text = "".join(traceback.format_exception(None, error, _from_handler(error.__traceback__)))',
    ): "the type is ignored since Python 3.10",
    (
        "trioqueue/jobs/outcome.py",
        'text = "".join(traceback.format_exception(type(None), error, _from_handler(error.__traceback__)))',
    ): "the type is ignored since Python 3.10",
    (
        "trioqueue/jobs/outcome.py",
        r'text = text.replace("\x00", "\\x00").encode("UTF-8", "backslashreplace").decode("utf-8")',
    ): "the name of an encoding is the same in capitals",
    (
        "trioqueue/jobs/outcome.py",
        r'text = text.replace("\x00", "\\x00").encode("utf-8", "backslashreplace").decode("UTF-8")',
    ): "the name of an encoding is the same in capitals",
    (
        "trioqueue/runtime/settler.py",
        "self._look_again_at = None",
    ): "it is set before it is read: with the first busy job",
    (
        "trioqueue/runtime/settler.py",
        "self._look_again_at = 1.0",
    ): "it is set before it is read: with the first busy job",
    (
        "trioqueue/runtime/settler.py",
        "self._closed = None",
    ): "only ever asked whether it is true",
}
"""By file and by the lines that the mutant puts in (or takes out, if it puts in none)."""
