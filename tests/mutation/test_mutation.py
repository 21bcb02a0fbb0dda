"""The command that measures the tests works; the long files are for whoever runs it."""

import pytest

from tests.mutation.__main__ import WANTED, change_of, measure
from tests.mutation.equivalent import EQUIVALENT


@pytest.mark.timeout(300)
def test_the_tests_of_the_backoff_notice_nearly_every_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    unnoticed = '_check("factor", self.factor, 1, 1001)'
    monkeypatch.setitem(EQUIVALENT, ("trioqueue/jobs/backoff.py", unnoticed), "to see that it counts apart")
    score = measure("trioqueue/jobs/backoff.py")
    assert score.killed > 20
    assert score.share >= WANTED, score.survivors
    assert score.equivalent == 1


@pytest.mark.parametrize(
    ("diff", "change"),
    [
        ("--- a\n+++ b\n@@ -1,2 +1,2 @@\n def f():\n-    return 1\n+    return 2\n", "return 2"),
        ("--- a\n+++ b\n@@ -1,2 +1,2 @@\n     g(\n-        a,\n-    )\n", "a, )"),
    ],
)
def test_a_mutant_is_known_by_what_it_puts_in_or_takes_out(diff: str, change: str) -> None:
    assert change_of(diff) == change
