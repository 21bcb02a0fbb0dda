"""Records what SQLite does to the files of a directory, and makes what a power cut could leave of them.

The law of this file: what was synced is on the disk. Of everything else nobody knows: each write,
truncation, creation and removal may have reached the disk or not, in any order, and a write may have
reached it in part. Files and the directory's entries for them are synced apart.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import apsw

SECTOR_BYTES = 512
"""A disk writes so much whole or not at all."""

FORGOTTEN = "-shm"
"""Shared memory that happens to have a name: SQLite builds it anew after a restart."""


@dataclass(frozen=True, slots=True)
class Wrote:
    inode: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncated:
    inode: int
    size: int


@dataclass(frozen=True, slots=True)
class Linked:
    """The directory got an entry: a file was created."""

    name: str
    inode: int


@dataclass(frozen=True, slots=True)
class Unlinked:
    name: str
    inode: int


@dataclass(frozen=True, slots=True)
class Synced:
    """What had been written to the file before is on the disk; not so the directory's entry for it."""

    inode: int


@dataclass(frozen=True, slots=True)
class DirectorySynced:
    """The entries that had been made and removed before are on the disk."""


Change = Wrote | Truncated | Linked | Unlinked
Action = Change | Synced | DirectorySynced
Files = dict[str, bytes]


@dataclass(slots=True)
class Disk:
    """What is on the disk for sure, and what is in flight."""

    contents: dict[int, bytearray] = field(default_factory=dict)
    entries: dict[str, int] = field(default_factory=dict)
    in_flight: list[Change] = field(default_factory=list)
    """In the order in which it happened."""

    def take(self, action: object) -> None:
        """Go on by one entry of a log; those that are no actions change nothing."""
        match action:
            case Wrote() | Truncated() | Linked() | Unlinked():
                self.in_flight.append(action)
            case Synced(inode):
                self._land(lambda change: isinstance(change, Wrote | Truncated) and change.inode == inode)
            case DirectorySynced():
                self._land(lambda change: isinstance(change, Linked | Unlinked))

    def _land(self, is_synced: Callable[[Change], bool]) -> None:
        for change in filter(is_synced, self.in_flight):
            _apply(change, self.contents, self.entries)
        self.in_flight = [change for change in self.in_flight if not is_synced(change)]

    def image(self, survivors: Sequence[Change]) -> Files:
        """The files after a power cut that these of the changes in flight survived."""
        touched = {change.inode for change in survivors}
        contents = {
            inode: bytearray(data) if inode in touched else data for inode, data in self.contents.items()
        }
        entries = dict(self.entries)
        for change in survivors:
            _apply(change, contents, entries)
        return {name: bytes(contents.get(inode, b"")) for name, inode in entries.items()}


def _apply(change: Change, contents: dict[int, bytearray], entries: dict[str, int]) -> None:
    match change:
        case Wrote(inode, offset, data):
            content = contents.setdefault(inode, bytearray())
            content.extend(bytes(max(0, offset - len(content))))  # a hole is read as zeros
            content[offset : offset + len(data)] = data
        case Truncated(inode, size):
            content = contents.setdefault(inode, bytearray())
            del content[size:]
            content.extend(bytes(size - len(content)))
        case Linked(name, inode):
            entries[name] = inode
        case Unlinked(name, inode):
            if entries.get(name) == inode:
                del entries[name]


def sectors(write: Wrote) -> list[Wrote]:
    """The parts of a write that reach the disk whole or not at all."""
    parts = []
    start = 0
    while start < len(write.data):
        end = start + SECTOR_BYTES - (write.offset + start) % SECTOR_BYTES
        parts.append(Wrote(write.inode, write.offset + start, write.data[start:end]))
        start = end
    return parts


@contextmanager
def recording(directory: Path, log: list[object]) -> Iterator[None]:
    """Append every `Action` of SQLite in `directory` to `log`, whoever opens a connection in this process."""
    recorder = _Recorder(directory, log)
    try:
        yield
    finally:
        recorder.end()


_OPEN_DIRECTORY = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int))
"""SQLite opens a directory only in order to sync it."""


class _Recorder(apsw.VFS):
    """SQLite's usual way to the files, and a note of what went by."""

    def __init__(self, directory: Path, log: list[object]) -> None:
        super().__init__("recorder", "unix", makedefault=True)
        self._directory = directory
        self._log = log
        self._inodes: dict[str, int] = {}
        self._given = 0
        self._opening = threading.Lock()
        self._thread = threading.local()
        for path in sorted(directory.iterdir()):
            if path.is_file():
                self._find(path)
        original = self.xGetSystemCall("openDirectory")
        assert original
        self._original = original
        open_directory = _OPEN_DIRECTORY(self._original)

        def note(path: bytes, descriptor: "ctypes._Pointer[ctypes.c_int]") -> int:
            self._thread.synced_directory = True
            return int(open_directory(path, descriptor))

        self._note = _OPEN_DIRECTORY(note)  # kept: SQLite has only its address
        address = ctypes.cast(self._note, ctypes.c_void_p).value
        assert address
        self.xSetSystemCall("openDirectory", address)

    def _find(self, path: Path) -> None:
        """A file that was there before is on the disk."""
        inode = self._inode(path.name)
        self._log += [Wrote(inode, 0, path.read_bytes()), Synced(inode), DirectorySynced()]

    def end(self) -> None:
        self.xSetSystemCall("openDirectory", self._original)
        self.unregister()

    def add(self, action: Action) -> None:
        self._log.append(action)
        if getattr(self._thread, "synced_directory", False):
            self._thread.synced_directory = False
            self._log.append(DirectorySynced())

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802
        path = Path(name.filename() if isinstance(name, apsw.URIFilename) else name or "")
        if path.parent != self._directory or path.name.endswith(FORGOTTEN):
            return apsw.VFSFile("unix", name, flags)
        with self._opening:
            file = _RecordedFile(name, flags, self)
            file.inode = self._inode(path.name)
            return file

    def _inode(self, name: str) -> int:
        """The number of an open file. One that was not known has just been created, by whomever."""
        if name not in self._inodes:
            self._given += 1
            self._inodes[name] = self._given
            self.add(Linked(name, self._given))
        return self._inodes[name]

    def xDelete(self, name: str, sync_directory: bool) -> None:  # noqa: N802
        super().xDelete(name, sync_directory)
        path = Path(name)
        if path.parent == self._directory and path.name in self._inodes:
            self.add(Unlinked(path.name, self._inodes.pop(path.name)))


class _RecordedFile(apsw.VFSFile):
    inode = 0

    def __init__(self, name: str | apsw.URIFilename | None, flags: list[int], recorder: _Recorder) -> None:
        super().__init__("unix", name, flags)
        self._recorder = recorder

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._recorder.add(Wrote(self.inode, offset, bytes(data)))

    def xTruncate(self, size: int) -> None:  # noqa: N802
        super().xTruncate(size)
        self._recorder.add(Truncated(self.inode, size))

    def xSync(self, flags: int) -> None:  # noqa: N802
        super().xSync(flags)
        self._recorder.add(Synced(self.inode))
