/* SPDX-License-Identifier: GPL-2.0 */
/* Targets: the traced processes, each in a slot of its own. */
#ifndef NATIVELEAK_TARGETS_BPF_H
#define NATIVELEAK_TARGETS_BPF_H

#include "common.bpf.h"
#include "nativeleak.h"

/* slot -> target. Written by user space, always as a whole. */
NL_MAP(targets, ARRAY, u32, struct nl_target, NL_MAX_TARGETS, 0);

/* slot -> enum nl_state. Apart from the target, because exec switches it off from here. */
NL_MAP(windows, ARRAY, u32, u32, NL_MAX_TARGETS, 0);

/* tgid -> slot, for probes that run in every process. Written by user space, deleted here at exec. */
NL_MAP(slots, HASH, u32, u32, NL_MAX_TARGETS, 0);

/* The target of a slot while its window is open, else 0. */
static __always_inline struct nl_target *active_target(u32 slot)
{
	u32 *state = bpf_map_lookup_elem(&windows, &slot);

	if (!state || *state != NL_ON)
		return 0;
	return bpf_map_lookup_elem(&targets, &slot);
}

/* Are calls only counted, before the window opens, to learn their rate? */
static __always_inline int is_counting(u32 slot)
{
	u32 *state = bpf_map_lookup_elem(&windows, &slot);

	return state && *state == NL_COUNTING;
}

/* Slot of the running process; NL_MAX_TARGETS if it is not a target. */
static __always_inline u32 current_slot(void)
{
	u32 tgid = current_ids() >> 32;
	u32 *slot = bpf_map_lookup_elem(&slots, &tgid);

	return slot ? *slot : NL_MAX_TARGETS;
}

#endif /* NATIVELEAK_TARGETS_BPF_H */
