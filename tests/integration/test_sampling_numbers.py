"""The whole numbers of ``bpf/sample.h``, compiled for this host, against the formulas they stand for."""

from __future__ import annotations

import ctypes
import math
import random
import subprocess
from pathlib import Path

import pytest

from support import require_program

HEADER = Path(__file__).parents[2] / "bpf" / "sample.h"
SOURCE = f"""
#include "{HEADER}"
unsigned long long draw(unsigned random, unsigned long long rate) {{ return nl_draw(random, rate); }}
void weigh(unsigned long long size, unsigned long long rate, unsigned random, struct nl_weight *weight)
{{
	nl_weigh(size, rate, random, weight);
}}
"""
RATES = (1 << 10, 4099, 64 << 10, 512 << 10, 1 << 28)


class Weight(ctypes.Structure):
    """``struct nl_weight``."""

    _fields_ = (("bytes", ctypes.c_uint64), ("count", ctypes.c_uint32), ("kept", ctypes.c_uint32))


@pytest.fixture(scope="module")
def numbers(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    require_program("gcc")
    folder = tmp_path_factory.mktemp("sample")
    (folder / "sample.c").write_text(SOURCE)
    subprocess.run(
        ["gcc", "-O1", "-shared", "-fPIC", "-Wall", "-Werror", "-o", folder / "sample.so", folder / "sample.c"],
        check=True,
    )
    library = ctypes.CDLL(str(folder / "sample.so"))
    library.draw.restype, library.draw.argtypes = ctypes.c_uint64, (ctypes.c_uint32, ctypes.c_uint64)
    library.weigh.argtypes = (ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint32, ctypes.POINTER(Weight))
    library.weigh.restype = None
    return library


def weigh(numbers: ctypes.CDLL, size: int, rate: int, chance: int) -> Weight:
    weight = Weight()
    numbers.weigh(size, rate, chance, ctypes.byref(weight))
    return weight


@pytest.mark.parametrize("rate", RATES)
def test_distances_are_the_logarithm_to_a_byte(numbers: ctypes.CDLL, rate: int) -> None:
    draw = random.Random(rate)
    chances = [0, 1, 2, 1 << 31, (1 << 32) - 1, (1 << 32) - 2, *(draw.getrandbits(32) for _ in range(5000))]
    for chance in chances:
        exact = -rate * math.log((2 * chance + 1) / 2**33)
        assert abs(numbers.draw(chance, rate) - math.floor(exact)) <= 1 + exact * 1e-8 + rate * 2**-24


@pytest.mark.parametrize("rate", RATES)
def test_weights_are_the_inverse_of_the_probability(numbers: ctypes.CDLL, rate: int) -> None:
    for size in {1, 2, 16, rate // 4 - 1, rate // 4, rate // 2, rate, 3 * rate, 16 * rate - 1}:
        p = -math.expm1(-size / rate)
        weight = weigh(numbers, size, rate, 12345)
        assert weight.bytes == pytest.approx(size / p, rel=1e-5, abs=1)
        assert weight.kept / 2**32 == pytest.approx(p, rel=max(2e-4, 2 / rate), abs=2**-31)
        counts = {weigh(numbers, size, rate, chance).count for chance in (0, size - 1)}
        assert counts <= {math.floor(weight.bytes / size), math.ceil(weight.bytes / size)}
    assert weigh(numbers, 0, rate, 1).bytes == 0
    assert weigh(numbers, 0, rate, 1).count >= rate


def test_sampled_streams_are_unbiased_in_bytes_and_counts(numbers: ctypes.CDLL) -> None:
    """A million blocks of many sizes, as the programs in the kernel go through them."""
    draw, rate = random.Random(4711), 64 << 10
    sizes = [1 + draw.getrandbits(draw.randrange(1, 16)) for _ in range(1_000_000)]
    until, n_bytes, count, variance_bytes, variance_count, n_kept = (
        numbers.draw(draw.getrandbits(32), rate),
        0,
        0,
        0.0,
        0.0,
        0,
    )
    for size in sizes:
        if until >= size:
            until -= size
            continue
        until = numbers.draw(draw.getrandbits(32), rate)
        weight, p = weigh(numbers, size, rate, draw.getrandbits(32)), -math.expm1(-size / rate)
        n_kept, n_bytes, count = n_kept + 1, n_bytes + weight.bytes, count + weight.count
        variance_bytes += (1 - p) * weight.bytes**2
        variance_count += (1 - p) / p**2
    assert n_kept > 10_000
    assert abs(n_bytes - sum(sizes)) < 4 * math.sqrt(variance_bytes)
    assert abs(count - len(sizes)) < 4 * math.sqrt(variance_count)
    assert abs(n_bytes / sum(sizes) - 1) < 0.04
