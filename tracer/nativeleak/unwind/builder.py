"""TEMPORARY."""
import os
from nativeleak.symbols.source import FileSource
from nativeleak.unwind.table import UnwindTable, build_table
class PendingBuild:
    def __init__(self, t): self.t=t
    def poll(self): return True
    def result(self): return self.t
    def cancel(self): pass
def build(fd, build_id, *, full=False): return build_table(FileSource(os.dup(fd)), full=full)
def start_build(fd, build_id, *, full=False): return PendingBuild(build(fd, build_id, full=full))
