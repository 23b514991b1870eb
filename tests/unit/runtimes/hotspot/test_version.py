"""The three sources of a JVM's version, on files made for the purpose."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nativeleak.process.procfs import MapEntry
from nativeleak.runtimes.hotspot.version import find_libjvm, read_version
from nativeleak.runtimes.registry import identify


def entry(path: Path | str, perms: str = "r-xp") -> MapEntry:
    return MapEntry(0x10000, 0x11000, perms, 0, "fd:01", 77, str(path), False)


def libjvm(folder: Path, content: bytes = b"") -> MapEntry:
    folder.mkdir(parents=True)
    (folder / "libjvm.so").write_bytes(content)
    return entry(folder / "libjvm.so")


@pytest.mark.parametrize("folder", ["lib/server", "jre/lib/amd64/server"])
def test_read_version_release_file_is_believed(tmp_path: Path, folder: str) -> None:
    maps = [libjvm(tmp_path / "jdk" / folder)]
    (tmp_path / "jdk/release").write_text('IMPLEMENTOR="Debian"\nJAVA_VERSION="17.0.15"\nJAVA_VERSION_DATE="x"\n')
    assert read_version(os.getpid(), maps) == "17.0.15"


def test_read_version_no_release_asks_perf_data(tmp_path: Path) -> None:
    maps = [libjvm(tmp_path / "jdk/lib/server", b" JRE (11.0.1+2), built on"), entry(tmp_path / "hsperfdata_me/12")]
    (tmp_path / "hsperfdata_me").mkdir()
    (tmp_path / "hsperfdata_me/12").write_bytes(
        b"\xca\xfe\xc0\xc0java.property.java.vm.version\0\0\0\x0021.0.8+9-LTS\0\0\0"
    )
    assert read_version(os.getpid(), maps) == "21.0.8+9-LTS"


def test_read_version_only_libjvm_is_searched_across_chunks(tmp_path: Path) -> None:
    content = b"\0" * ((1 << 20) - 8) + b"OpenJDK for linux-amd64 JRE (17.0.15+6-Debian), built"
    assert read_version(os.getpid(), [libjvm(tmp_path / "jdk/lib/server", content)]) == "17.0.15+6-Debian"


def test_read_version_no_source_is_unknown(tmp_path: Path) -> None:
    assert read_version(os.getpid(), [libjvm(tmp_path / "jdk/lib/server")]) == "unknown"
    assert read_version(os.getpid(), [entry("/nowhere/libjvm.so")]) == "unknown"


def test_identify_no_libjvm_is_none() -> None:
    maps = [entry("/lib/notlibjvm.so"), entry("/lib/libjvm.so.1")]
    assert find_libjvm(maps) is None
    assert identify(os.getpid(), maps) is None
