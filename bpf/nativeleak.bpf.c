// SPDX-License-Identifier: GPL-2.0
/* All programs as one BPF object, so that they share their maps. */
#include "alloc.bpf.c"
#include "call_sites.bpf.c"
#include "exits.bpf.c"
#include "process.bpf.c"
#include "syscalls_tracepoint.bpf.c"
#include "syscalls_raw.bpf.c"
#include "syscalls_fentry.bpf.c"

/*
 * Puts the shared types that no map has into the object's type information, with which a unit test compares abi.py. No
 * program calls it, so the kernel never gets it.
 */
struct nl_shared {
	enum nl_alloc_call alloc_call;
	enum nl_counter counter;
	enum nl_event_type event_type;
	enum nl_lack lack;
	enum nl_found found;
	enum nl_end end;
	enum nl_state state;
	enum nl_unwind unwind;
	enum nl_rule_kind rule_kind;
	enum nl_rbp_rule rbp_rule;
	enum nl_target_flag target_flag;
	struct nl_event event;
};

static __attribute__((used, noinline)) int nl_share(const struct nl_shared *shared)
{
	return shared->counter;
}

char LICENSE[] SEC("license") = "GPL";
