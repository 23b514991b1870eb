"""The machines of vagrant/, as far as they can be checked without Vagrant: what its file configures, run by Ruby."""

from __future__ import annotations

import json
import subprocess

import pytest

from support import ROOT, require_program


@pytest.fixture(scope="module")
def configured():
    require_program("ruby")
    reader = ROOT / "tests/tools/read_vagrantfile.rb"
    command = ["ruby", "-W:no-experimental", reader, ROOT / "vagrant/Vagrantfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_vagrantfile_has_a_machine_of_each_distribution(configured):
    boxes = [machine["box"].split("/")[0] for machine in configured["machines"].values()]
    assert boxes == ["debian", "bento", "rockylinux", "fedora", "generic"]
    assert configured["synced"] == ["..", "/nativeleak"]


def test_vagrantfile_provisions_each_machine_by_setup_in_valid_shell(configured):
    for machine in configured["machines"].values():
        assert list(machine["scripts"]) == ["first", "setup"]
        assert "scripts/setup --tests" in machine["scripts"]["setup"]
        for script in machine["scripts"].values():
            assert subprocess.run(["bash", "-n", "-c", script], check=False).returncode == 0


def test_vagrant_runs_the_tests_by_a_script_that_is_valid():
    script = ROOT / "vagrant/run-tests"
    assert script.stat().st_mode & 0o100
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
