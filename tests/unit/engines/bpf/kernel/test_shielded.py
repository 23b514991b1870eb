"""A child that no signal to its parent reaches makes descriptors, and the parent gets them or the child's error."""

from __future__ import annotations

import errno
import os
import signal

import pytest

from nativeleak.engines.bpf.kernel.shielded import shielded


def n_open() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count is all


def pipes(n: int) -> list[int]:
    """Read ends of pipes whose write ends hold the number of each."""
    ends = []
    for i in range(n):
        read_fd, write_fd = os.pipe()
        os.write(write_fd, str(i).encode())
        os.close(write_fd)
        ends.append(read_fd)
    return ends


@pytest.mark.parametrize("n", [0, 1, 253, 254, 600])
def test_descriptors_of_the_child_arrive_in_their_order(n):
    before = n_open()
    fds = shielded(lambda: pipes(n))
    assert [os.read(fd, 16) for fd in fds] == [str(i).encode() for i in range(n)]
    assert not any(os.get_inheritable(fd) for fd in fds)
    assert n_open() == before + n
    for fd in fds:
        os.close(fd)


def test_error_of_the_child_is_raised_with_its_number():
    def fails():
        raise OSError(errno.EINVAL, "another tracer")

    before = n_open()
    with pytest.raises(OSError, match="another tracer") as caught:
        shielded(fails)
    assert caught.value.errno == errno.EINVAL
    assert n_open() == before


def test_error_that_cannot_be_pickled_is_raised_by_its_text():
    def fails():
        class LocalError(OSError):
            pass

        raise LocalError(errno.EPERM, "no rights")

    with pytest.raises(OSError, match="no rights") as caught:
        shielded(fails)
    assert caught.value.errno == errno.EPERM


def test_child_that_is_killed_is_an_error():
    with pytest.raises(ChildProcessError):
        shielded(lambda: [os.kill(os.getpid(), signal.SIGKILL) or 0])


def test_child_has_a_session_of_its_own_and_no_signal_ends_it():
    def attach():
        assert os.getsid(0) == os.getpid() != os.getppid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            os.kill(os.getpid(), number)
        return pipes(1)

    (fd,) = shielded(attach)
    os.close(fd)


def test_signal_mask_and_children_are_as_before():
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    shielded(list)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
