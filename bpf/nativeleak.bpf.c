// SPDX-License-Identifier: GPL-2.0
/* The one BPF object: all programs share their maps. */
#include "alloc.bpf.c"
#include "mapping.bpf.c"
#include "rawsyscalls.bpf.c"
#include "trampolines.bpf.c"

char LICENSE[] SEC("license") = "GPL";
