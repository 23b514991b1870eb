"""Which headers BCC is given: the running kernel's own, where they are, and no other kernel's."""

from __future__ import annotations

import pytest

from nativeleak.engines.bpf.kernel.loaders.headers import ARCHIVE, find_headers

RELEASE = "6.1.0-56-cloud-amd64"
BUILD = f"usr/src/linux-headers-{RELEASE}"
COMMON = "usr/src/linux-headers-6.1.0-56-common"


def make(root, name, release=RELEASE, *, generated=True, whole=True, file="include/generated/utsrelease.h"):
    folder = root / name
    (folder / "include/linux").mkdir(parents=True)
    if whole:
        (folder / "include/linux/kconfig.h").write_text("")
    if generated:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f'#define UTS_RELEASE "{release}"\n')
    return folder


def test_no_headers_are_stubs_with_the_reason(tmp_path):
    found = find_headers(RELEASE, tmp_path)
    assert not found.is_real
    assert found.said == f"stubs of kernel headers: none of {RELEASE} are here"


@pytest.mark.parametrize("place", [f"lib/modules/{RELEASE}/build", BUILD])
@pytest.mark.parametrize("file", ["include/generated/utsrelease.h", "include/generated/uapi/linux/utsrelease.h"])
def test_tree_of_the_running_kernel_is_taken(place, file, tmp_path):
    tree = make(tmp_path, place, file=file)
    found = find_headers(RELEASE, tmp_path)
    assert (found.tree, found.generated) == (str(tree), "")
    assert found.said == f"the kernel's own headers in {tree}"


def test_tree_in_two_parts_is_taken_by_the_links_beside_the_modules(tmp_path):
    """As Debian and SUSE have it."""
    build = make(tmp_path, "elsewhere/build", whole=False)
    common = make(tmp_path, "elsewhere/common", generated=False)
    modules = tmp_path / "lib/modules" / RELEASE
    modules.mkdir(parents=True)
    (modules / "build").symlink_to(build)
    (modules / "source").symlink_to(common)
    found = find_headers(RELEASE, tmp_path)
    assert (found.tree, found.generated) == (str(modules / "source"), str(modules / "build"))


def test_tree_in_two_parts_is_taken_by_debians_names(tmp_path):
    build, common = make(tmp_path, BUILD, whole=False), make(tmp_path, COMMON, generated=False)
    found = find_headers(RELEASE, tmp_path)
    assert (found.tree, found.generated) == (str(common), str(build))


def test_tree_of_which_a_part_is_missing_is_not_taken(tmp_path):
    build = make(tmp_path, BUILD, whole=False)
    assert find_headers(RELEASE, tmp_path).said == f"stubs of kernel headers: those in {build} are not whole"


@pytest.mark.parametrize("release", ["6.1.0-53-cloud-amd64", RELEASE + "-dirty", ""])
def test_tree_of_another_kernel_is_not_taken(release, tmp_path):
    """As after an update that waits for a boot."""
    build = make(tmp_path, f"lib/modules/{RELEASE}/build", release)
    found = find_headers(RELEASE, tmp_path)
    assert not found.is_real
    assert str(build) in found.said
    assert (release or "no kernel") in found.said


def test_tree_of_another_kernel_gives_way_to_the_archive_in_the_kernel(tmp_path):
    make(tmp_path, f"lib/modules/{RELEASE}/build", "5.15.0")
    archive = tmp_path / ARCHIVE
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"")
    found = find_headers(RELEASE, tmp_path)
    assert (found.tree, found.said) == (str(archive), f"the kernel's own headers in {archive}")
