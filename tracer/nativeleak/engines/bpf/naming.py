"""Names for new stacks, while the target lives, and what the names tell about whose memory it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.raw import RawStack
from nativeleak.engines.bpf.targets import TargetState
from nativeleak.frames.display import qualified
from nativeleak.frames.roles import THREAD_ROOTS
from nativeleak.ledger.heap import SiteLabel
from nativeleak.model import Frame, FrameKind, FrameSource, Owner, Stack
from nativeleak.runtimes.frames import owner_of_stack, unmapper_of_stack

_MAX_CALLERS: Final = 4096
_N_CALLERS: Final = 3
"""operator new, and what stands between it and malloc, may be among them."""
_SIGNAL_RETURN: Final = "__restore_rt"
"""Where a signal handler returns to; C libraries without local symbols have no name for it."""
_UNKNOWN_STACK: Final = SiteLabel((), Owner.PROGRAM)
_FOUND: Final[dict[int, FrameSource]] = {
    abi.FrameSource.EXACT: FrameSource.EXACT,
    abi.FrameSource.GUESS: FrameSource.GUESS,
    abi.FrameSource.SIGNAL: FrameSource.SIGNAL,
    abi.FrameSource.FP: FrameSource.FP,
    abi.FrameSource.SITE: FrameSource.SITE,
}
_RETURNED_TO: Final = (abi.FrameSource.EXACT, abi.FrameSource.FP)
"""Sources of a frame that its callee surely returns to."""
_THUNKS: Final = ("__x86_indirect_thunk", "__llvm_retpoline", "__x86_return_thunk")
"""Code that calls through a register go through, to keep the processor from guessing: functions of nobody."""
_ENDS: Final = {
    abi.End.ROOT: "root",
    abi.End.STEPS: "depth",
    abi.End.NO_MAPPING: "no mapping",
    abi.End.NO_TABLE: "no table",
    abi.End.RULE: "rule",
    abi.End.READ: "unreadable",
    abi.End.BAD_SP: "bad stack pointer",
    abi.End.STALL: "no return address",
    abi.End.NO_FP: "no frame pointer",
    abi.End.JAVA_FRAME: "unexpected Java frame",
}
"""How a walk ended, in words."""


class StackFacts(NamedTuple):
    """What is remembered of a named stack; the frames themselves are in the recording."""

    label: SiteLabel
    headline: str


class Named(NamedTuple):
    """A stack with its names, and what they tell.

    Attributes:
        stack: For the recording.
        owner: On whose behalf memory is taken at it.
        unmapper: On whose behalf address space is given back at it.
        in_allocator: An allocator function is on it, below its leaf.
        backing: Keys of stacks named before, which turn out to be an allocator's own.
    """

    stack: Stack
    owner: Owner
    unmapper: Owner
    in_allocator: bool
    backing: tuple[int, ...] = ()


class StackNamer:
    """Names stacks, and remembers of each what the totals need.

    Args:
        headline_frame: Picks the frame of a stack that tells a person most, for the live view.
    """

    def __init__(self, headline_frame: Callable[[Sequence[Frame]], Frame | None]) -> None:
        self.ends: dict[str, int] = {}
        self.n_truncated = 0
        self.interrupted: dict[int, set[int]] = {}
        """Slot -> addresses that a signal interrupted, where the tables of call sites say nothing; to be emptied."""
        self.allocator_watched = True
        """Allocator calls are seen: mappings made inside of one differ from those of the program."""
        self.callers: dict[int, tuple[int, ...]] | None = None
        """Stack key -> return addresses next to the leaf, of the first stacks: hot call sites are among them.

        None where nobody asks for them.
        """
        self._headline_frame = headline_frame
        self._stacks: dict[int, StackFacts] = {}
        self._backing_stacks: set[int] = set()
        self._mapping_stacks: set[int] = set()
        self._backing_callers: set[tuple[int, int]] = set()
        self._mapping_callers: dict[tuple[int, int], list[int]] = {}

    def saw_mapping(self, stack_key: int, *, in_allocator: bool) -> None:
        """A mapping was made at this stack; to be called before the stack is named."""
        (self._backing_stacks if in_allocator else self._mapping_stacks).add(stack_key)

    def name(self, state: TargetState, raw: RawStack) -> Named:
        """The stack with names; what they tell of it is the caller's to use."""
        if self.callers is not None and len(self.callers) < _MAX_CALLERS:
            self.callers[raw.key] = tuple(each.ip for each in raw.frames[1 : 1 + _N_CALLERS])
        frames, is_whole = self._frames(state, raw)
        in_allocator = any(frame.ip - frame.offset in state.leaf_names for frame in frames[1:])
        unmapper = Owner.ALLOCATOR if in_allocator else unmapper_of_stack(frames)
        is_backing, backing = self._find_backing(raw) if self.allocator_watched else (False, ())
        owner = Owner.ALLOCATOR if is_backing else owner_of_stack(frames)
        headline = self._headline_frame(frames)
        end = _ENDS[raw.end] if is_whole else "no call before a return address"
        if raw.end is abi.End.NO_FP and frames and frames[-1].function in THREAD_ROOTS:
            end = "root"
        truncated = end != "root" or raw.n_left_out > 0
        self.n_truncated += truncated
        function = frames[0].function if frames else "?"
        self.ends[end] = self.ends.get(end, 0) + 1
        self._stacks[raw.key] = StackFacts(SiteLabel((function,), owner), headline.function if headline else "?")
        return Named(Stack(raw.key, frames, truncated, end), owner, unmapper, in_allocator, backing)

    def _frames(self, state: TargetState, raw: RawStack) -> tuple[tuple[Frame, ...], bool]:
        """Frames with their names, and False where they were cut because a return address cannot be one."""
        frames: list[Frame] = []
        after_signal = False  # the frame is what a signal interrupted: it did not call
        callee: Frame | None = None
        for i, raw_frame in enumerate(raw.frames):
            ip, found, _ = raw_frame
            if raw.n_left_out and i == raw.n_head:
                text = f"... {raw.n_left_out} frames left out (--max-depth)"
                frames.append(Frame(text, None, 0, 0, FrameKind.STUB, found=FrameSource.GAP))
            managed = state.runtime.frames(raw_frame) if state.runtime is not None else None
            if managed is not None:
                frames.extend(managed)
                callee = None
                continue
            is_leaf = i == 0 or found == abi.FrameSource.SIGNAL or after_signal
            after_signal = not is_leaf and state.returns.is_signal_return(ip)
            # The root's return address may be made up: the walk itself has looked at that one.
            is_root = i == len(raw.frames) - 1 and raw.end is abi.End.ROOT
            if not (is_leaf or is_root or after_signal) and not _is_plausible(state, ip):
                return tuple(frames), False
            if found == abi.FrameSource.SIGNAL:
                self.interrupted.setdefault(raw.slot, set()).add(ip)
            frame = state.symbolizer.resolve(ip, is_leaf=is_leaf or after_signal)
            if callee is not None and not (is_leaf or is_root or after_signal):
                entered = _left_by_jump(state, callee, ip)
                if entered is not None:
                    is_sure = found in _RETURNED_TO
                    frames.append(replace(entered, found=FrameSource.TAIL if is_sure else _FOUND[found]))
            if after_signal and frame.kind is FrameKind.UNRESOLVED:
                frame = replace(frame, function=_SIGNAL_RETURN, kind=FrameKind.NATIVE)
            if i == 0 and ip in state.leaf_names:
                frame = replace(frame, function=state.leaf_names[ip])
            # Of a watched call site it is the call that is known, and not what it enters.
            callee = frame if found != abi.FrameSource.SITE else None
            frames.append(frame if found == abi.FrameSource.EXACT else replace(frame, found=_FOUND[found]))
        return tuple(frames), True

    def _find_backing(self, raw: RawStack) -> tuple[bool, tuple[int, ...]]:
        """Whether a mapping was made by allocator code, although no allocator call was seen in flight.

        free has no return probe, so what it maps inside looks like the program's: a thread whose first call is a free
        makes its arena there. The places that map are the same as inside malloc, and those are known.

        Returns:
            With it the keys of stacks that were named before this was known of their caller.
        """
        caller = (raw.slot, raw.frames[1].ip) if len(raw.frames) > 1 else None
        if caller is None:
            return False, ()
        if raw.key in self._backing_stacks:
            self._backing_callers.add(caller)
            # The same stack again, in a call whose return was declined, is the allocator's too.
            return True, tuple(self._mapping_callers.pop(caller, ()))
        if caller in self._backing_callers:
            return True, ()
        if raw.key in self._mapping_stacks:
            self._mapping_callers.setdefault(caller, []).append(raw.key)
        return False, ()

    def is_known(self, stack_key: int) -> bool:
        """Whether the stack has its names."""
        return stack_key in self._stacks

    def label(self, stack_key: int) -> SiteLabel:
        """The allocator function of a stack and its owner."""
        facts = self._stacks.get(stack_key)
        return facts.label if facts else _UNKNOWN_STACK

    def headline(self, stack_key: int) -> str:
        """The most telling function of a stack."""
        facts = self._stacks.get(stack_key)
        return facts.headline if facts else "?"


def _left_by_jump(state: TargetState, callee: Frame, return_address: int) -> Frame | None:
    """The function that a call entered and that then jumped to the callee, as compilers end a function with a call.

    Nothing of it is left on the stack. The call instruction names it: what runs now with this return address is another
    function, so the one that was called has jumped there, by whatever way.
    """
    address = state.returns.called(return_address)
    if address is None or address == callee.ip - callee.offset:
        return None
    entered = state.symbolizer.function_at(address)
    if (
        entered is None
        or entered.function.startswith(_THUNKS)
        or qualified(entered.function) == qualified(callee.function)
    ):
        return None
    return entered


def _is_plausible(state: TargetState, ip: int) -> bool:
    """Whether a call may return there; what lies there now tells nothing of code that was unloaded."""
    return state.returns.is_plausible(ip) or state.symbolizer.has_left(ip)
