// SPDX-License-Identifier: GPL-2.0
/* All programs as one BPF object, so that they share their maps. */
#include "alloc.bpf.c"
#include "exits.bpf.c"
#include "process.bpf.c"
#include "syscalls_tracepoint.bpf.c"
#include "syscalls_raw.bpf.c"
#include "syscalls_fentry.bpf.c"

char LICENSE[] SEC("license") = "GPL";
