"""One check of each state."""

from __future__ import annotations

from nativeleak.doctor.checks import Check, State

OK = Check("kernel", State.OK, "Linux 6.18")
WARN = Check("symbols x", State.WARN, "only names in .dynsym", "install its debug symbols")
FAIL = Check("rights", State.FAIL, "user 7 without CAP_BPF", "run as root")
