"""What is said where the kernel refuses to load or attach the programs: the errors, each with its remedy."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Sequence
from typing import Final

from nativeleak.engines.bpf.kernel.abi import MissingFeature
from nativeleak.engines.bpf.kernel.btf import BTF_PATH
from nativeleak.errors import CannotTraceError, MendableError
from nativeleak.process.shortage import own_memory_limit

_LOADING: Final = "loading the BPF programs failed"
_NO_BTF: Final = "failed to find valid kernel BTF"
"""What libbpf says if it has no memory for the kernel's types, too; the error is ESRCH then."""


class NoLinksError(OSError):
    """The kernel has no links of the kind that a way of attaching needs."""


def load_error(
    failure: OSError | None, missing: MissingFeature, messages: Sequence[str], *, needs_btf: bool
) -> CannotTraceError:
    """Why the programs cannot be loaded.

    Args:
        failure: The last refusal; None: no way to attach was left to try.
        missing: Features that the kernel lacks.
        messages: What libbpf said, oldest first.
        needs_btf: The loader fits the programs to the kernel by the kernel's type information.
    """
    why = os.strerror(failure.errno or 0) if failure else "no way to attach left to try"
    if failure and failure.errno == errno.EPERM:
        bound = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
        # libbpf has tried to lift the bound.
        if MissingFeature.ATOMICS in missing and bound != resource.RLIM_INFINITY:
            return MendableError(
                f"{_LOADING}: {why}: before Linux 5.11 BPF maps count as locked memory, of which this process may have"
                f" {bound >> 10} KiB",
                "`ulimit -l unlimited` (LimitMEMLOCK=infinity of a service), or run with CAP_SYS_RESOURCE too",
            )
        return CannotTraceError(
            f"{_LOADING}: {why}",
            "run as root, or with the capabilities CAP_BPF, CAP_PERFMON, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH",
        )
    limit = own_memory_limit()
    if limit is not None and any(_NO_BTF in message for message in messages) and BTF_PATH.exists():
        lack, remedy = limit
        return MendableError(f"{_LOADING}: {lack}", remedy)
    if needs_btf and not BTF_PATH.exists():
        return CannotTraceError(
            f"{_LOADING}: this kernel does not describe its types: {BTF_PATH} is missing",
            "another engine does without: --engine bcc (apt-get install python3-bpfcc)",
        )
    detail = next((line for line in reversed(messages) if line), "")
    return CannotTraceError(
        f"{_LOADING}: {why}",
        f"`nativeleak doctor` says what this kernel lacks{f' (libbpf: {detail})' if detail else ''}",
    )


def attach_error(name: str, error: OSError) -> CannotTraceError:
    """Why the functions of an object cannot be probed."""
    failed = f"probing the allocator functions of {name} failed"
    if error.errno == errno.EINVAL:
        return MendableError(
            f"{failed}: {os.strerror(errno.EINVAL)}",
            "another tracer may hold a probe on the same function with another reference counter (bcc's memleak does;"
            " the kernel's log then says `ref_ctr_offset mismatch`): end it and try again",
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        remedy = "run as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE"
    else:
        remedy = "`nativeleak doctor -p PID` says what can be probed"
    return CannotTraceError(f"{failed}: {os.strerror(error.errno or 0)}", remedy)


def tracepoint_error(event: str, error: OSError) -> CannotTraceError:
    """Why a tracepoint that tracing needs cannot be used."""
    return CannotTraceError(
        f"attaching to tracepoint {event} failed: {error.strerror}",
        "run as root; `nativeleak doctor` says what this kernel lacks",
    )


def no_hooks_error(wanted: Sequence[str]) -> CannotTraceError:
    """That none of the ways to trace system calls that were asked for is here."""
    return CannotTraceError(
        f"cannot trace system calls: this kernel has no {', '.join(wanted)}",
        "try the other way: --syscalls tracepoints",
    )
