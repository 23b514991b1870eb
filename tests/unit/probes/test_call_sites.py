"""Call sites of the allocator, held against what objdump says of the same objects."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from nativeleak.probes.call_sites import MAKERS, CallSite, find_call_sites
from nativeleak.probes.emulation import CONSERVATIVE, classify
from nativeleak.symbols.elf import ElfFile
from support import require, require_program

SOURCE = """
#include <stdlib.h>
#include <string.h>
extern void use(void *);
void *one(unsigned long n) { void *p = malloc(n); if (!p) abort(); memset(p, 1, n); return p; }
void *two(unsigned long n) { void *p = calloc(n, 3); use(p); return realloc(p, 2 * n); }
void *three(unsigned long n) { use(malloc(n)); use(malloc(n + 1)); free(one(n)); return 0; }
void *jumps(unsigned long n) { return malloc(n); }
void use(void *p) { if (posix_memalign(&p, 64, 128)) abort(); }
int main(int argc, char **argv) { use(one(argc)); use(two(argc)); use(three(argc)); return jumps(argc) == argv; }
"""
WAYS = {
    "plt": [],
    "no plt": ["-fno-plt"],
    "marked": ["-fcf-protection=full", "-Wl,-z,ibtplt"],
    "not optimized": ["-O0"],
    "no pie": ["-no-pie", "-fno-pie"],
}
LINE = re.compile(r"^\s*([0-9a-f]+):\s+((?:[0-9a-f]{2} )+)\s*(\S+)(.*)$")
FUNCTION = re.compile(r"^[0-9a-f]+ <([^>]+)>:$")


def disassembled(path: Path) -> dict[int, tuple[str, int, str, str]]:
    """Address -> function, length, mnemonic and operands of each instruction, as objdump has them."""
    require_program("objdump")
    text = subprocess.run(["objdump", "-d", "-w", path], capture_output=True, text=True, check=True).stdout
    found, function = {}, ""
    for line in text.splitlines():
        if named := FUNCTION.match(line):
            function = named[1]
        elif code := LINE.match(line):
            found[int(code[1], 16)] = (function, len(code[2].split()), code[3], code[4])
    return found


def sites_of(path: Path) -> dict[int, CallSite]:
    """Address of the call -> what was found."""
    with ElfFile.open(str(path)) as elf:
        offsets = [(each.offset, each.file_bytes, each.vaddr) for each in elf.loads]
        sites = find_call_sites(elf, CONSERVATIVE, MAKERS)
    return {
        site.offset - offset + vaddr: site
        for site in sites
        for offset, n_bytes, vaddr in offsets
        if offset <= site.offset < offset + n_bytes
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("call-sites") / "calls.c"
    path.write_text(SOURCE)
    return path


@pytest.mark.parametrize("way", WAYS)
def test_calls_are_those_of_the_disassembler(way: str, source: Path):
    require_program("gcc")
    made = source.with_name(way.replace(" ", "-"))
    subprocess.run(["gcc", "-O2", *WAYS[way], "-o", made, source], check=True)
    code = disassembled(made)
    names = "calloc|malloc|posix_memalign|realloc"
    own = {"main", "one", "two", "three", "use", "jumps"}
    called = re.compile(rf"<(?:__)?(?:libc_)?(?:{names})(?:@\S+)?>")
    expected = {
        address
        for address, (function, _, mnemonic, operands) in code.items()
        if function in own and mnemonic.endswith("call") and called.search(operands)
    }
    found = {address: site for address, site in sites_of(made).items() if code[address][0] in own}
    assert set(found) == expected
    assert len(expected) >= 6
    for address, site in found.items():
        _, n_bytes, mnemonic, operands = code[address]
        assert (site.n_bytes, site.kind) == (n_bytes, MAKERS[site.callee])
        assert site.callee in operands
        assert mnemonic.endswith("call")


@pytest.mark.parametrize("library", ["libstdc++.so.6", "libc.so.6"])
def test_calls_and_their_places_are_instructions_of_real_libraries(library: str):
    path = next(iter(Path("/usr/lib").glob(f"x86_64-linux-gnu/{library}")), None)
    require(path, f"{library} is not where Debian has it")
    code, data = disassembled(path), path.read_bytes()
    found = sites_of(path)
    assert len(found) > 100
    for address, site in found.items():
        assert "call" in code[address][2]
        place = address + site.landing - site.offset
        behind = [at for at in range(address + site.n_bytes, place + 1) if at in code]
        # Nothing between the call and its place leads elsewhere, and nothing gives the stack pointer another value.
        assert behind[-1] == place
        for at in behind[:-1]:
            assert not code[at][2].startswith(("j", "call", "ret", "push", "pop", "leave")), hex(at)
            assert not code[at][3].strip().endswith("%rsp"), hex(at)
        is_emulated = classify(data[site.landing : site.landing + 16]) in CONSERVATIVE
        assert site.n_stepped == (not is_emulated) + (site.n_bytes == 6 and data[site.offset] == 0xFF)
    most = sum(1 for site in found.values() if not site.n_stepped)
    assert most > 0.8 * len(found)


def test_an_allocators_own_calls_are_none():
    path = next(iter(Path("/usr/lib").glob("x86_64-linux-gnu/libstdc++.so.6")), None)
    require(path, "libstdc++ is not where Debian has it")
    code = disassembled(path)
    inside = {code[address][0].partition("@")[0] for address in sites_of(path)}
    assert not inside & {"_Znwm", "_Znam", "_ZnwmSt11align_val_t"}
