"""The parsers and judgements of what the machine has, with results put in by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nativeleak.doctor.checks import State
from nativeleak.doctor.machine import (
    CAPABILITIES,
    judge_memory,
    judge_rights,
    map_bytes,
    parse_available,
    parse_capabilities,
    parse_lockdown,
)
from nativeleak.engines.bpf.kernel.programs import Limits

ALL = frozenset(CAPABILITIES)


def test_parse_capabilities_reads_the_mask():
    assert parse_capabilities(0) == frozenset()
    assert parse_capabilities(0x1FFFEFFFFFF) == ALL
    assert parse_capabilities(1 << 39 | 1 << 2) == {"CAP_BPF", "CAP_DAC_READ_SEARCH"}


@pytest.mark.parametrize(
    ("uid", "held", "in_init_userns", "state"),
    [
        (0, ALL, True, State.OK),
        (0, ALL, False, State.FAIL),
        (0, frozenset(), True, State.FAIL),
        (1000, frozenset({"CAP_BPF"}), True, State.FAIL),
        (1000, frozenset({"CAP_BPF", "CAP_PERFMON"}), True, State.WARN),
        (1000, ALL - {"CAP_SYS_ADMIN"}, True, State.OK),
        # Before Linux 5.8 there is no CAP_BPF: CAP_SYS_ADMIN stands for it.
        (0, ALL - {"CAP_BPF", "CAP_PERFMON", "CAP_CHECKPOINT_RESTORE"}, True, State.OK),
    ],
)
def test_judge_rights(uid, held, in_init_userns, state):
    assert judge_rights(uid, held, in_init_userns=in_init_userns).state is state


def test_judge_rights_names_what_is_missing():
    assert judge_rights(7, frozenset({"CAP_BPF"}), in_init_userns=True).detail == "user 7 without CAP_PERFMON"


def test_parse_lockdown_takes_the_mode_in_brackets():
    assert parse_lockdown("none [integrity] confidentiality\n") == "integrity"
    assert parse_lockdown("") == "unknown"


def test_parse_available_reads_bytes():
    assert parse_available("MemTotal:       16 kB\nMemAvailable:    7919 kB\n") == 7919 << 10
    with pytest.raises(ValueError):
        parse_available("MemTotal: 16 kB\n")


def test_judge_memory_warns_over_half_of_what_is_free():
    assert judge_memory(200, 100).state is State.OK
    assert judge_memory(199, 100).state is State.WARN


def test_map_bytes_million_blocks_take_what_was_measured():
    one_more = map_bytes(replace(Limits(), n_allocations=(1 << 20) + 1_000_000), 2) - map_bytes(Limits(), 2)
    assert one_more == 130_000_000  # 122 MB was measured for 1M entries of 8 + 24 bytes
