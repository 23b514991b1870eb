"""A runtime that does not exist: a row in the registry, and a class that claims a range of addresses."""

from __future__ import annotations

import re

from nativeleak.errors import NativeleakError
from nativeleak.frames.tables import RuntimeFrames
from nativeleak.model import Frame, FrameKind
from nativeleak.runtimes.base import FrameCounts, OwnedRange, RuntimeMemory, RuntimeSpec, RuntimeWords, raw_frame

LIBRARY = "libmadeup.so"
LOW, HIGH = 0x5000_0000, 0x5000_1000
CONFIG, LATE_CONFIG = b"made-up-", b"complete"


class MadeUp:
    """The runtime of one process. Of two frames at each of its addresses the inner one was inlined."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.notes = ["half of it is made up"]
        self.walker_config = CONFIG
        self.n_named = 0
        self.n_begun = 0
        self.looked_at: list[int] = []
        self.names = {pid: "a name of more than fifteen characters"}
        self.is_closed = False
        self._late: bytes | None = LATE_CONFIG

    @property
    def counts(self):
        return FrameCounts(self.n_named, 5, 7)

    def frames(self, raw):
        if not LOW <= raw.ip < HIGH:
            return None
        self.n_named += 2
        names = (f"inner_{raw.ip - LOW:x}", f"outer_{raw.extra}")
        return [Frame(name, None, raw.ip, 0, FrameKind.NATIVE) for name in names]

    def begin_naming(self):
        self.n_begun += 1

    def look_at(self, words):
        self.looked_at += [raw_frame(*each).ip for each in zip(words[::2], words[1::2], strict=True)]

    def late_config(self):
        late, self._late = self._late, None
        return late

    def thread_names(self):
        return self.names

    def memory(self):
        return [OwnedRange(LOW, HIGH, "made-up code")]

    def limits(self):
        return []

    def close(self):
        self.is_closed = True


def refuse(pid):
    raise NativeleakError(f"reading the made-up runtime of PID {pid} failed: it is not that mad")


SPEC = RuntimeSpec(
    name="made-up",
    is_library=lambda path: path.endswith(f"/{LIBRARY}"),
    read_version=lambda _pid, _maps: "1009",
    open=MadeUp,
    words=RuntimeWords("made-up machine", "Madeup", "all of them"),
    frames=RuntimeFrames(
        LIBRARY,
        requests=(("text", re.compile(r"mu_request\w*$")),),
        allocators=r"mu_alloc\w*",
        purposes=(("code", re.compile(r"mu_jit")),),
    ),
    memory=RuntimeMemory("made-up structures"),
    config_map="madeups",
    config_bytes=len(CONFIG),
)
