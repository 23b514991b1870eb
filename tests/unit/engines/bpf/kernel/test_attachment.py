"""Which programs go where in each way of attaching, as far as no kernel is asked."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytest

from nativeleak.engines.bpf.kernel import abi
from nativeleak.engines.bpf.kernel.attachment import FunctionProbes
from nativeleak.engines.bpf.kernel.groups import FREES_ONLY, Close
from nativeleak.engines.bpf.kernel.uprobes import (
    AttachMode,
    LoadedPrograms,
    MultiLinks,
    PerfEvents,
    Place,
    ProgramSource,
    SessionLinks,
    Step,
    UprobeWay,
    way_of,
)
from nativeleak.errors import CannotTraceError, MendableError
from nativeleak.probes.calls import AllocCall
from nativeleak.probes.exits import Exit
from nativeleak.probes.families import ProbePoint
from nativeleak.probes.placement import PlacedProbe, Placement
from nativeleak.probes.returns import ExitPlace, Plan, SeenAtExits

WAYS: list[UprobeWay] = [way_of(mode, None) for mode in AttachMode]


class NoPrograms:
    """Programs of a way that attaches nothing; notes which were loaded."""

    def __init__(self) -> None:
        self.loaded: list[str] = []

    def program_fd(self, name: str) -> int:
        self.loaded.append(name)
        return -1

    @contextmanager
    def at_probe(self, name: str, cookie: int) -> Iterator[tuple[int, int]]:
        raise AssertionError((name, cookie))
        yield


class Recorder:
    """A way that notes what it is to attach, with the steps of another."""

    def __init__(self, like: UprobeWay, refuses: int = 0, after: int = 0) -> None:
        self._like, self._refuses, self._after = like, refuses, after
        self.attached: list[tuple[Step, Sequence[Place]]] = []
        self.detached: list[Step] = []

    @property
    def mode(self) -> AttachMode:
        return self._like.mode

    @property
    def programs(self) -> Mapping[str, int]:
        return self._like.programs

    @property
    def allocation_steps(self) -> Sequence[Step]:
        return self._like.allocation_steps

    @property
    def declines_returns(self) -> bool:
        return self._like.declines_returns

    def check_kernel(self) -> None:
        """Nothing to check."""

    def check_loaded(self, loaded: LoadedPrograms) -> None:
        """Nothing to check."""

    def attach(self, loaded: ProgramSource, step: Step, pid: int, path: str, places: Sequence[Place]) -> list[Close]:
        assert isinstance(loaded, NoPrograms)
        assert (pid, path) == (17, "/lib/libc.so.6")
        if self._refuses and len(self.attached) >= self._after:
            raise OSError(self._refuses, "refused")
        self.attached.append((step, places))
        return [lambda: self.detached.append(step)]


def probe(call: AllocCall, start: int, offset: int = 0, pushed_bytes: int = 0) -> PlacedProbe:
    placement = Placement(offset, emulated=True, instruction="", pushed_bytes=pushed_bytes)
    return PlacedProbe(ProbePoint(call.spec.name, call, start), placement)


PLACED = [
    probe(AllocCall.REALLOC, 300),
    probe(AllocCall.MALLOC, 100, offset=4),
    probe(AllocCall.FREE, 200, offset=9, pushed_bytes=8),
    probe(AllocCall.CALLOC, 400),
]


def attach(way: Recorder, placed: Sequence[PlacedProbe] = PLACED) -> FunctionProbes:
    probes = FunctionProbes(way, NoPrograms())
    probes.attach(3, 17, "/lib/libc.so.6", "libc.so.6", Plan(tuple(placed)))
    return probes


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.mode.name)
def test_way_loads_the_programs_of_its_steps_and_no_others(way: UprobeWay) -> None:
    own = {"on_free", *(step.program for step in way.allocation_steps)}
    at_sites = {"on_site_call", "on_site_return"} if way.mode in (AttachMode.SESSION, AttachMode.MULTI) else set()
    assert set(way.programs) == own | {"on_exits_entry", "on_alloc_exit"} | at_sites
    assert way.mode in AttachMode


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.mode.name)
def test_way_entry_is_the_last_of_its_steps(way: UprobeWay) -> None:
    assert [step.at_return for step in way.allocation_steps] in ([False], [True, False])


def test_way_of_tracefs_without_a_mount_is_refused_as_forbidden() -> None:
    with pytest.raises(OSError, match="no probes can be defined in tracefs") as caught:
        way_of(AttachMode.TRACEFS, None).check_kernel()
    assert caught.value.errno == errno.EPERM


def test_attach_session_one_program_a_group_frees_first() -> None:
    way = Recorder(SessionLinks())
    attach(way)
    assert [(step.program, [place.offset for place in places]) for step, places in way.attached] == [
        ("on_free", [209]),
        ("on_alloc_session", [300]),
        ("on_alloc_session", [104, 400]),
    ]


@pytest.mark.parametrize("like", [MultiLinks(), PerfEvents()], ids=["multi", "perf"])
def test_attach_entry_and_return_apart_returns_first(like: UprobeWay) -> None:
    way = Recorder(like)
    attach(way)
    assert [(step, len(places)) for step, places in way.attached] == [
        (Step("on_free"), 1),
        (Step("on_alloc_return", at_return=True), 1),
        (Step("on_alloc_entry"), 1),
        (Step("on_alloc_return", at_return=True), 2),
        (Step("on_alloc_entry"), 2),
    ]


def test_attach_cookies_say_what_the_probe_is_for() -> None:
    way = Recorder(SessionLinks())
    attach(way)
    cookies = {place.offset: place.cookie for _, places in way.attached for place in places}
    assert cookies == {
        209: abi.cookie(AllocCall.FREE, 3, 9, 8),
        300: abi.cookie(AllocCall.REALLOC, 3),
        104: abi.cookie(AllocCall.MALLOC, 3, 4, function=1),
        400: abi.cookie(AllocCall.CALLOC, 3, function=2),
    }


def test_attach_functions_are_numbered_through_all_objects_of_a_target_most_frequent_first() -> None:
    way = Recorder(SessionLinks())
    probes = FunctionProbes(way, NoPrograms())
    n = abi.N_FUNCTIONS + 3
    many = tuple(probe(AllocCall.MALLOC, 100 + i) for i in range(n))
    some = [probe(AllocCall.POSIX_MEMALIGN, 10), probe(AllocCall.NEW, 20)]
    probes.attach(0, 17, "/lib/libc.so.6", "libc.so.6", Plan(tuple(some)))
    probes.attach(0, 17, "/lib/libc.so.6", "libc.so.6", Plan(many))
    probes.attach(1, 17, "/lib/libc.so.6", "libc.so.6", Plan((probe(AllocCall.MALLOC, 7),)))
    numbers = [(place.offset, place.cookie >> 60) for _, places in way.attached for place in places]
    assert numbers[:2] == [(10, 2), (20, 1)]
    assert [number for _, number in numbers[2:-1]] == [*range(3, abi.N_FUNCTIONS), *[0] * 6]
    assert numbers[-1] == (7, 1)


def seen_at_exits(call: AllocCall, start: int, *exits: int, is_open: bool = False) -> SeenAtExits:
    places = tuple(
        ExitPlace(at, Exit(at + 0x1000, 12, 40, None, emulated=True, is_hot=True, instruction="jne")) for at in exits
    )
    return SeenAtExits(probe(call, start), places, is_open)


def test_attach_functions_seen_at_their_exits_exits_first_shared_ones_once() -> None:
    way = Recorder(SessionLinks())
    plan = Plan(
        (probe(AllocCall.FREE, 200),),
        (
            seen_at_exits(AllocCall.NEW, 500, 510, 520, is_open=True),
            seen_at_exits(AllocCall.REALLOC, 600, 620, 520),
        ),
    )
    programs = NoPrograms()
    FunctionProbes(way, programs).attach(3, 17, "/lib/libc.so.6", "libc.so.6", plan)
    # Before anything is attached, and only what is.
    assert {*programs.loaded} == {"on_free", "on_alloc_exit", "on_exits_entry"}
    assert [(step.program, [place.offset for place in places]) for step, places in way.attached] == [
        ("on_free", [200]),
        ("on_alloc_exit", [520, 620]),
        ("on_exits_entry", [600]),
        ("on_alloc_exit", [510]),
        ("on_exits_entry", [500]),
    ]
    cookies = {place.offset: place.cookie for _, places in way.attached for place in places}
    assert cookies[510] == abi.exit_cookie(3, 40, 12, None) == 3 << 8 | 5 << 16 | 12 << 32
    assert (cookies[500] >> 60, cookies[600] >> 60) == (1, 0)


def test_exit_cookie_condition_of_a_branch_is_marked() -> None:
    assert abi.exit_cookie(0, 0, 0, 0) == 1 << 44
    assert abi.exit_cookie(0, 0, 0, 15) == 31 << 40


def test_attach_way_that_cannot_decline_numbers_nothing() -> None:
    way = Recorder(MultiLinks())
    attach(way)
    assert all(place.cookie >> 60 == 0 for _, places in way.attached for place in places)


def test_attach_group_that_is_not_wanted_waits() -> None:
    way = Recorder(SessionLinks())
    probes = FunctionProbes(way, NoPrograms())
    probes.groups.want(FREES_ONLY)
    probes.attach(3, 17, "/lib/libc.so.6", "libc.so.6", Plan(tuple(PLACED)))
    assert [places[0].offset for _, places in way.attached] == [209, 300]


def test_detach_takes_everything_away_once() -> None:
    way = Recorder(SessionLinks())
    probes = attach(way)
    probes.detach()
    probes.detach()
    assert len(way.detached) == 3


@pytest.mark.parametrize(
    ("number", "kind", "remedy"),
    [
        (errno.EINVAL, MendableError, "ref_ctr_offset mismatch"),
        (errno.EPERM, CannotTraceError, "CAP_SYS_PTRACE"),
        (errno.ENOENT, CannotTraceError, "nativeleak doctor -p PID"),
    ],
)
def test_attach_refused_error_names_the_object_and_the_remedy(
    number: int, kind: type[CannotTraceError], remedy: str
) -> None:
    with pytest.raises(kind) as caught:
        attach(Recorder(SessionLinks(), refuses=number))
    assert caught.value.what.startswith("probing the allocator functions of libc.so.6 failed: ")
    assert remedy in caught.value.remedy


def test_attach_refused_in_the_middle_takes_back_what_was_attached() -> None:
    way = Recorder(MultiLinks(), refuses=errno.ENOENT, after=3)
    probes = FunctionProbes(way, NoPrograms())
    with pytest.raises(CannotTraceError):
        probes.attach(3, 17, "/lib/libc.so.6", "libc.so.6", Plan(tuple(PLACED)))
    assert len(way.attached) == 3
    assert sorted(way.detached) == sorted(step for step, _ in way.attached)
    assert len(probes.groups) == 0


def test_attach_anew_detaches_and_attaches_the_owners_probes_of_wanted_groups() -> None:
    way = Recorder(SessionLinks())
    probes = attach(way)
    probes.groups.want(FREES_ONLY)
    before, way.detached = list(way.attached), []
    probes.groups.attach_anew((3, "/lib/libc.so.6"))
    assert way.attached == [*before, before[0], before[1]]
    assert sorted(way.detached) == sorted([before[0][0], before[1][0]])
    probes.groups.attach_anew((4, "/lib/libc.so.6"))
    assert len(way.attached) == len(before) + 2
