"""Opening files below a root that the target controls."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nativeleak.process.namespaces import open_below, open_in_root, open_regular


def content(fd: int) -> bytes:
    with open(fd, "rb") as file:
        return file.read()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with etc/name, and a file of the same path outside of it."""
    root = tmp_path / "root"
    (root / "etc").mkdir(parents=True)
    (root / "etc/name").write_bytes(b"inside")
    (tmp_path / "secret").write_bytes(b"outside")
    return root


@pytest.mark.parametrize("path", ["/etc/name", "etc/name", "//etc/./name", "/etc/../etc/name", "/../../etc/name"])
def test_open_below_spellings_of_a_path_lead_to_the_same_file(root: Path, path: str) -> None:
    assert content(open_below(str(root), path)) == b"inside"


def test_open_below_absolute_link_stays_inside(root: Path) -> None:
    (root / "link").symlink_to("/etc/name")
    assert content(open_below(str(root), "/link")) == b"inside"


def test_open_below_link_to_folder_and_back_is_followed(root: Path) -> None:
    (root / "dir").symlink_to("/etc")
    (root / "etc/up").symlink_to("../dir/./name")
    assert content(open_below(str(root), "/dir/up")) == b"inside"


@pytest.mark.parametrize("target", ["../secret", "../../../secret", "{tmp}/secret"])
def test_open_below_link_out_of_the_root_finds_nothing(root: Path, tmp_path: Path, target: str) -> None:
    (root / "escape").symlink_to(target.format(tmp=tmp_path))
    with pytest.raises(FileNotFoundError):
        open_below(str(root), "/escape")


def test_open_below_link_loop_raises_eloop(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(OSError) as caught:
        open_below(str(root), "/a")
    assert caught.value.errno == errno.ELOOP


def test_open_below_last_link_not_followed_raises_eloop(root: Path) -> None:
    (root / "link").symlink_to("/etc/name")
    with pytest.raises(OSError) as caught:
        open_below(str(root), "/link", follow_last=False)
    assert caught.value.errno == errno.ELOOP


@pytest.mark.parametrize("path", ["/etc", "/fifo", "/", ""])
def test_open_below_what_is_no_regular_file_raises_einval(root: Path, path: str) -> None:
    os.mkfifo(root / "fifo")
    with pytest.raises(OSError) as caught:
        open_below(str(root), path)
    assert caught.value.errno == errno.EINVAL


def test_open_below_leaves_no_descriptor_open(root: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    os.close(open_below(str(root), "/etc/../etc/name"))
    with pytest.raises(FileNotFoundError):
        open_below(str(root), "/etc/none")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_open_in_root_own_process_opens_our_file(tmp_path: Path) -> None:
    (tmp_path / "x y").write_bytes(b"text")
    assert content(open_in_root(os.getpid(), str(tmp_path / "x y"))) == b"text"


def test_open_regular_device_is_never_opened() -> None:
    with pytest.raises(OSError) as caught:
        open_regular("/dev/null")
    assert caught.value.errno == errno.EINVAL
