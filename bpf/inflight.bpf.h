/* SPDX-License-Identifier: GPL-2.0 */
/* The allocator call in flight of a thread: does code belong to it, and what if it never returns? */
#ifndef NATIVELEAK_INFLIGHT_BPF_H
#define NATIVELEAK_INFLIGHT_BPF_H

#include "arch.bpf.h"
#include "common.bpf.h"
#include "counters.bpf.h"
#include "live.bpf.h"
#include "nativeleak.h"
#include "sites.bpf.h"
#include "targets.bpf.h"

/*
 * Is the return address of a call that ends at exits where it was at the entry? Another tracer's return probe on the same
 * function may have put the kernel's trampoline there. Yes if the word cannot be read.
 */
static __always_inline int keeps_return_address(const struct nl_thread *thread)
{
	u64 word;

	if (bpf_probe_read_user(&word, sizeof(word), (void *)thread->sp))
		return 1;
	return word == thread->return_address || (word && !(word & 0xfff));
}

/*
 * Does code with this stack pointer belong to the allocator call in flight? longjmp may have left that call without a
 * return, and other calls have then overwritten its frame.
 */
static __always_inline int is_inside_call(const struct nl_thread *thread, u64 sp)
{
	if (thread->call == NL_ALLOC_CALL_NONE || sp > thread->sp)
		return 0;
	if (!(thread->call & NL_CALL_AT_EXITS))
		return is_return_pending(thread->sp);
	/* So far away it is another stack, a fiber's. */
	return thread->sp - sp <= NL_NESTED_BYTES && keeps_return_address(thread);
}

/* Put the block that a realloc held back into the live set. If the map has filled up meanwhile, the block is lost. */
static __always_inline void put_back(struct nl_thread *thread)
{
	struct nl_site_key site_key = {
		.stack = thread->old.stack,
		.thread = thread->old.thread,
		.slot = thread->slot,
	};
	struct nl_target *target;
	struct nl_site *site;
	u32 slot = thread->slot;

	thread->held = 0;
	if (!put_block(thread->pointer, slot, &thread->old))
		return;
	count_n(NL_LOST_ALLOCATIONS, thread->old.count);
	count_n(NL_LOST_BYTES, thread->old.bytes);
	site = find_site(&site_key);
	target = bpf_map_lookup_elem(&targets, &slot);
	if (site && target)
		unbook_allocated(site, &thread->old, target->generation);
}

/* Forget a call in flight that will not return. A block that it held goes back. */
static __always_inline void abandon_call(struct nl_thread *thread)
{
	count(NL_ABANDONED);
	if (thread->held)
		put_back(thread);
	thread->call = NL_ALLOC_CALL_NONE;
}

#endif /* NATIVELEAK_INFLIGHT_BPF_H */
