"""What happened, in order: a hash of all of it, the last lines of it, and how often each thing did.

The law of this file: nothing goes in that another run of the same seed would not have, no object's
id, no path, no real time.
"""

from collections import Counter, deque
from collections.abc import Callable
from hashlib import blake2b

import trio


class Trace:
    """The story of one seed."""

    def __init__(self, tell: Callable[[str], None] | None = None, *, kept: int = 150) -> None:
        self.marks: Counter[str] = Counter()
        """How often each kind of event, fault and rare branch has happened."""
        self.tail: deque[str] = deque(maxlen=kept)
        self._hash = blake2b(digest_size=16)
        self._tell = tell

    @property
    def hash(self) -> str:
        return self._hash.hexdigest()

    def add(self, text: str) -> None:
        line = f"{trio.current_time():.6f} {text}"
        self._hash.update(line.encode())
        self.tail.append(line)
        if self._tell is not None:
            self._tell(line)

    def mark(self, name: str) -> None:
        self.marks[name] += 1
