"""The runtimes of the targets: opened, made known to the walker in the kernel, asked for names of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from nativeleak.engines.bpf.targets import TargetState
from nativeleak.engines.threads import ThreadTable
from nativeleak.model import FrameKind
from nativeleak.process.procfs import MapEntry
from nativeleak.runtimes.base import RuntimeSpec
from nativeleak.runtimes.registry import jit_kind, open_runtime, spec_of


class Walker(Protocol):
    """What the loaded programs take of a runtime."""

    def set_runtime(self, slot: int, config_map: str, config: bytes) -> None:
        """Give the walker what it has to know of a target's runtime."""


class TargetRuntimes:
    """The runtimes of one trace.

    Args:
        targets: By slot.
        threads: Of all targets.
        specs: Kinds of runtimes that targets may have.
        on_note: Gets (word, sentence) for the recording.
    """

    def __init__(
        self,
        targets: Mapping[int, TargetState],
        threads: ThreadTable,
        specs: Sequence[RuntimeSpec],
        on_note: Callable[[str, str], None],
    ) -> None:
        self._targets = targets
        self._threads = threads
        self._specs = specs
        self._on_note = on_note

    def jit_kind(self, maps: Sequence[MapEntry]) -> FrameKind:
        """Kind of the frames that the perf map of a process with these mappings names."""
        return jit_kind(maps, self._specs)

    def take(self, state: TargetState, walker: Walker) -> None:
        """Open the runtime of a target, if it has one; what cannot be shown of it is noted."""
        spec = spec_of(state.info.runtime, self._specs)
        if spec is None:
            return
        state.runtime, why = open_runtime(state.facts.pid, spec)
        state.config_map = spec.config_map
        if state.runtime is not None:
            _configure(walker, state, state.runtime.walker_config)
        if why:
            language, pid = spec.words.language, state.facts.pid
            self._on_note(language.lower(), f"not all of PID {pid}'s {language} frames can be shown: {why}")

    def complete(self, walker: Walker) -> None:
        """Tell the walker what runtimes have made only now."""
        for state in self._targets.values():
            if state.runtime is not None and not state.is_over:
                _configure(walker, state, state.runtime.late_config())

    def name_threads(self) -> None:
        """Give the threads of runtimes their full names, while they live."""
        for state in self._targets.values():
            if state.runtime is None or state.is_over:
                continue
            names = state.runtime.thread_names()
            if names is not state.names_read:  # an older reading may hold TIDs that others have by now
                state.names_read = names
                state.runtime_names |= names
            self._threads.rename_all(state.slot, state.runtime_names)

    def begin_naming(self, slots: Iterable[int]) -> None:
        """What is read of these targets from now on is believed for all stacks that are named together."""
        for slot in slots:
            state = self._targets.get(slot)
            if state is not None and state.runtime is not None:
                state.runtime.begin_naming()

    def look_at(self, slot: int, words: Sequence[int]) -> None:
        """Let a target's runtime look at the code on a stack that waits for its name."""
        state = self._targets.get(slot)
        if state is not None and state.runtime is not None:
            state.runtime.look_at(words)


def _configure(walker: Walker, state: TargetState, config: bytes | None) -> None:
    if config is not None:
        walker.set_runtime(state.slot, state.config_map, config)
