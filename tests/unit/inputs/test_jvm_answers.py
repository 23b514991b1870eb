"""Answers of jcmd without a file format, as JDK 11 to 25 print them."""

from __future__ import annotations

from nativeleak.inputs.jvm_answers import parse_code_cache, parse_flags, parse_histogram
from nativeleak.inputs.nmt import parse_nmt

_PARTS = """CodeHeap 'non-profiled nmethods': size=120032Kb used=15Kb max_used=15Kb free=120016Kb
 bounds [0x00007f0e0c4f4000, 0x00007f0e0c764000, 0x00007f0e13a2c000]
CodeHeap 'profiled nmethods': size=120028Kb used=109Kb max_used=110Kb free=119919Kb
 total_blobs=271 nmethods=80 adapters=101
"""


def test_code_cache_is_the_sum_of_its_parts() -> None:
    assert parse_code_cache(_PARTS).values["used"] == 124 << 10
    whole = "CodeCache: size=245760Kb, used=1532Kb, max_used=1545Kb, free=244227Kb\n"
    assert parse_code_cache(_PARTS + whole).values["used"] == 124 << 10
    assert parse_code_cache(whole).values == {
        "heaps": {"CodeCache": {"size": 245760 << 10, "used": 1532 << 10, "max_used": 1545 << 10}},
        "size": 245760 << 10,
        "used": 1532 << 10,
    }
    assert parse_code_cache("nothing").values["used"] is None


def test_histogram_has_classes_total_and_counts_what_it_does_not_understand() -> None:
    reading = parse_histogram(
        " num     #instances         #bytes  class name (module)\n"
        "-------------------------------------------------------\n"
        "   1:          2196         122448  [B (java.base@21.0.8)\n"
        "  47:            50           3200  java.util.zip.Deflater$DeflaterZStreamRef (java.base@21.0.8)\n"
        "  48:             2             64  com.acme.Order\n"
        "Total         12345        9876543\n"
        "odd\n"
    )
    assert reading.values["classes"][2] == {"class": "com.acme.Order", "count": 2, "bytes": 64}
    assert reading.values["total"] == {"count": 12345, "bytes": 9876543}
    assert reading.values["native_holders"] == {"java.util.zip.Deflater$DeflaterZStreamRef": 50}
    assert (reading.n_unread, reading.first_unread) == (1, "odd")


def test_flags_are_numbers_switches_and_words() -> None:
    flags = parse_flags(
        "-XX:CICompilerCount=2 -XX:MaxHeapSize=134217728 -XX:-UseSerialGC -XX:+UseG1GC -XX:HeapDumpPath=/x"
    )
    assert flags.values["flags"] == {
        "CICompilerCount": 2, "MaxHeapSize": 134217728, "UseSerialGC": 0, "UseG1GC": 1, "HeapDumpPath": "/x",
    }  # fmt: skip


def test_difference_of_nmt_of_17_has_no_line_that_is_not_understood() -> None:
    text = (
        "Total: reserved=1500000KB +10KB, committed=70000KB +158KB\n"
        "-                 Metaspace (reserved=65664KB, committed=4416KB)\n"
        "                            : (  Metadata)\n"
        "                            (   reserved=65536KB, committed=4352KB)\n"
    )
    assert parse_nmt(text).n_unread == 0
