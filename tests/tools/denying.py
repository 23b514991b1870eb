"""Becomes a command whose system calls from 335 to 423 get ENOSYS, as under the filter of a container runtime.

usage: python denying.py COMMAND ...

System calls that filters of 2024 do not know; on x86-64 Linux 6.11 to 6.13 put return probes among them.
"""

from __future__ import annotations

import ctypes
import os
import sys

from nativeleak.engines.bpf import filter_trial

if __name__ == "__main__":
    filter_trial.deny_unknown(ctypes.CDLL(None))
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
