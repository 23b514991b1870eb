"""Parsers of what others wrote, held to their contract: see ``harness.py``.

A short run is always the same. NATIVELEAK_TEST_FUZZ_S=60 tries each parser for 60 s, with inputs of its own
(NATIVELEAK_TEST_FUZZ_SEED, said in a failure, brings the same ones again).
"""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.harness import fuzz, try_input
from fuzz.parsers import PARSERS

SECONDS = float(os.environ.get("NATIVELEAK_TEST_FUZZ_S", "0"))
SEED = int(os.environ.get("NATIVELEAK_TEST_FUZZ_SEED", "0")) or (random.randrange(1 << 32) if SECONDS else 1)

parsers = pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)


@parsers
@pytest.mark.timeout(SECONDS + 300)
def test_parser_of_damaged_input_raises_only_what_it_documents_and_is_bounded(parser, tmp_path):
    print(f"NATIVELEAK_TEST_FUZZ_SEED={SEED}")
    assert fuzz(parser, tmp_path, seconds=SECONDS, seed=SEED) > 0


@parsers
def test_parser_of_any_bytes_raises_only_what_it_documents(parser, tmp_path):
    @settings(max_examples=40, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=200))
    def check(data):
        try_input(parser, data, tmp_path)

    check()
