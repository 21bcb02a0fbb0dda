import pytest

pytest.register_assert_rewrite("trioqueue.testing.conformance")
