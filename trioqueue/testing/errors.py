"""What a test may do wrong, said so that it can be put right.

TestMistake
├── NotRunning       the queue has no Trio run to live in
├── NoHandlers       nobody has said which handlers there are
├── NoVirtualTime    the Trio run keeps real time
└── NotTrio          the test runs on asyncio
"""

ANYIO = """\
    @pytest.fixture
    def anyio_backend():
        return ("trio", {"clock": MockClock(autojump_threshold=0)})  # from trio.testing"""


class TestMistake(Exception):
    """A test asks for something that cannot work as it is set up."""

    __test__ = False  # not a class of tests


class NotRunning(TestMistake):
    """The queue lives in the Trio run of its test, and there is none."""

    def __init__(self, wish: str) -> None:
        super().__init__(
            f"{wish} needs a running test. tq runs during an `async def` test of pytest-trio or of anyio's "
            "plugin, also in pytest-trio's async fixtures; in a plain test write `tq.run(story)`, "
            "where `async def story(): ...` does the work"
        )


class NoHandlers(TestMistake):
    """Without handlers there is nothing to enqueue for."""

    def __init__(self) -> None:
        super().__init__(
            "there are no handlers: `await tq.start(handlers)`, or, for all tests of a module,\n\n"
            "    @pytest.fixture\n    def tq_handlers():\n        return handlers"
        )


class NoVirtualTime(TestMistake):
    """The Trio run that the test is in keeps real time: nothing can move it."""

    def __init__(self, wish: str) -> None:
        super().__init__(
            f"{wish} needs virtual time, and this Trio run keeps real time. pytest-trio's tests and `tq.run` "
            "have virtual time unless they are marked with `real_time=True`. With anyio's plugin, where "
            f"async fixtures are used before the test begins, say\n\n{ANYIO}"
        )


class NotTrio(TestMistake):
    """anyio's plugin runs the test on asyncio."""

    def __init__(self) -> None:
        super().__init__(f"tq needs Trio, and anyio runs this test on asyncio. Say\n\n{ANYIO}")
