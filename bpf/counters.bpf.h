/* SPDX-License-Identifier: GPL-2.0 */
/* Counters: every way to lose data, and the rates that the budget needs. */
#ifndef NATIVELEAK_COUNTERS_BPF_H
#define NATIVELEAK_COUNTERS_BPF_H

#include "common.bpf.h"
#include "nativeleak.h"

/* enum nl_counter -> count, per CPU. Nothing is deleted. */
NL_MAP(counters, PERCPU_ARRAY, u32, u64, NL_N_COUNTERS, 0);

/* Atomic although the counter belongs to this CPU: a program may be preempted between load and store. */
static __always_inline void count_n(u32 counter, u64 n)
{
	u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		__sync_fetch_and_add(value, n);
}

/*
 * For counters of every call, which are read as rates: a preempted program may lose an increment. Returns whether user
 * space should be told that there were many.
 */
static __always_inline int count_roughly(u32 counter)
{
	u64 *value = bpf_map_lookup_elem(&counters, &counter), n;

	if (!value)
		return 0;
	n = *(volatile u64 *)value + 1;
	*(volatile u64 *)value = n;
	return !(n & (NL_BUSY_HITS - 1));
}

static __always_inline void count(u32 counter)
{
	count_n(counter, 1);
}

#endif /* NATIVELEAK_COUNTERS_BPF_H */
