// SPDX-License-Identifier: GPL-2.0
/* Allocator probes: entry, return, session and free. Those at the exits of functions are in exits.bpf.c. */
#include "alloc.bpf.h"
#include "arch.bpf.h"
#include "common.bpf.h"
#include "counters.bpf.h"
#include "events.bpf.h"
#include "inflight.bpf.h"
#include "live.bpf.h"
#include "nativeleak.h"
#include "sites.bpf.h"
#include "targets.bpf.h"
#include "threads.bpf.h"

SEC("uprobe")
int on_alloc_entry(struct pt_regs *ctx)
{
	enter_call(ctx, cookie_of(ctx), current_ids(), 0, AT_RETURN);
	return 0;
}

SEC("uprobe")
int on_alloc_return(struct pt_regs *ctx)
{
	return leave_call(ctx, current_ids());
}

/*
 * Entry and return in one program. At the entry the instruction pointer is the probed address; at the return it is
 * where the caller continues. Mostly a thread enters through the same probe as before: skip bpf_get_func_ip() then,
 * because a helper call costs as much as the rest of the fast path. Returning 1 at the entry declines the return.
 */
SEC("uprobe")
int on_alloc_session(struct pt_regs *ctx)
{
	u64 ids = current_ids();
	u32 tid = (u32)ids;
	struct nl_thread *thread = cached_thread(tid);

	if (!thread || thread->tid != tid || thread->probed != REG_IP(ctx)) {
		if (REG_IP(ctx) != bpf_get_func_ip(ctx))
			return leave_call(ctx, ids);
		thread = 0;
	}
	return !enter_call(ctx, bpf_get_attach_cookie(ctx), ids, thread, AT_RETURN);
}

/* See mark_sites. */
SEC("raw_tp")
int on_retire(void *ctx)
{
	(void)ctx;
	return mark_sites();
}

SEC("uprobe")
int on_free(struct pt_regs *ctx)
{
	u64 cookie = cookie_of(ctx), address = arguments_of(ctx, cookie).first;
	u64 ids = current_ids();
	u32 slot = NL_COOKIE_SLOT(cookie), tid = (u32)ids;
	struct nl_target *target = active_target(slot);
	struct nl_thread *thread;
	struct nl_live block;

	if (!target) {
		if (is_counting(slot))
			count(NL_FREES);
		return 0;
	}
	if (target->tgid != ids >> 32)
		return 0;
	if (count_roughly(NL_FREES) && !(target->flags & NL_TARGET_NO_BUDGET))
		tell_busy(slot);
	if (!address) {
		count(NL_FREE_NULL);
		return 0;
	}
	if (take_block_here(address, slot, &block)) {
		book_freed(&block, slot, target->generation);
		if (NL_COOKIE_CALL(cookie) == NL_ALLOC_CALL_DELETE) {
			thread = find_thread(tid);
			if (thread)
				thread->deleted = address;
		}
		return 0;
	}
	thread = find_thread(tid);
	/* A realloc in flight may free its old block through free: that block is held, not unmatched. */
	if (thread && (is_inside_call(thread, REG_SP(ctx) + NL_COOKIE_PUSHED(cookie)) ||
		       thread->deleted == address)) {
		/* Through several functions that free, each by the next one. */
		if (NL_COOKIE_CALL(cookie) != NL_ALLOC_CALL_DELETE)
			thread->deleted = 0;
		count(NL_NESTED);
		return 0;
	}
	count_unmatched(target);
	return 0;
}
