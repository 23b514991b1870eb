"""The configuration files: patterns of libraries, and files that are refused."""

from __future__ import annotations

import os

import pytest

from nativeleak.cli.config import config_files, known_libraries
from nativeleak.errors import UsageError


def write(path, text, mode=0o600):
    path.write_text(text)
    path.chmod(mode)
    return path


def test_known_libraries_later_files_and_the_command_line_go_first(tmp_path):
    system = write(tmp_path / "system.toml", 'libraries = ["libold*.so*", "com.acme.*"]')
    own = write(tmp_path / "own.toml", 'libraries = ["!com.acme.shop.*"]')
    found = known_libraries(["acme::*"], [system, own, tmp_path / "missing.toml"])
    assert found.patterns == ("acme::*", "!com.acme.shop.*", "libold*.so*", "com.acme.*")


def test_config_files_follow_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_files()[1] == tmp_path / "nativeleak" / "config.toml"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(config_files()[1]) == "/home/someone/.config/nativeleak/config.toml"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("libraries = [", "config.toml"),
        ("library = []", "unknown key 'library'"),
        ('libraries = "acme"', "no list of texts"),
        ("libraries = [1]", "no list of texts"),
        ('libraries = ["*"]', "is no pattern"),
        ('libraries = [""]', "is no pattern"),
        ("#" * ((1 << 20) + 1), "larger than 1 MiB"),
    ],
)
def test_known_libraries_bad_file_is_named_with_what_is_wrong(tmp_path, text, why):
    path = write(tmp_path / "config.toml", text)
    with pytest.raises(UsageError) as caught:
        known_libraries([], [path])
    assert why in str(caught.value)
    assert "config.toml" in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_known_libraries_file_that_others_can_write_is_refused(tmp_path, mode):
    path = write(tmp_path / "config.toml", "libraries = []", mode)
    with pytest.raises(UsageError, match="others can write to it"):
        known_libraries([], [path])


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_known_libraries_file_of_another_user_is_refused(tmp_path):
    path = write(tmp_path / "config.toml", "libraries = []")
    os.chown(path, 12345, 12345)
    with pytest.raises(UsageError, match="belongs to UID 12345"):
        known_libraries([], [path])


def test_known_libraries_pipe_is_refused_without_waiting(tmp_path):
    path = tmp_path / "config.toml"
    os.mkfifo(path, 0o600)
    with pytest.raises(UsageError, match="it is no file"):
        known_libraries([], [path])


@pytest.mark.parametrize("pattern", ["", "*", "!", "!*", "..."])
def test_known_libraries_pattern_for_everything_is_refused(pattern):
    with pytest.raises(UsageError, match="--library"):
        known_libraries([pattern], [])
