// SPDX-License-Identifier: GPL-2.0
/* Allocator probes at functions of which the end is seen at their own exits: entry and exit. See exits.bpf.h. */
#include "alloc.bpf.h"
#include "arch.bpf.h"
#include "common.bpf.h"
#include "counters.bpf.h"
#include "exits.bpf.h"
#include "nativeleak.h"
#include "targets.bpf.h"
#include "threads.bpf.h"

/*
 * Put the call that comes to an exit with this cookie in flight again, if it was parked; by whichever thread it runs in
 * now. Returns that thread, or 0 if the call is not followed.
 */
static __noinline struct nl_thread *unpark_call(struct pt_regs *ctx, u64 cookie, u64 ids)
{
	u32 slot = NL_COOKIE_SLOT(cookie), *any = bpf_map_lookup_elem(&has_parked, &slot);
	u64 key = block_key(REG_SP(ctx) + 8 * NL_EXIT_WORDS(cookie), slot);
	struct nl_target *target = bpf_map_lookup_elem(&targets, &slot);
	struct nl_thread *call, *thread;

	/* A forked child has the same addresses, but it is not the target. */
	if (!any || !*(volatile u32 *)any || !target || target->tgid != ids >> 32)
		return 0;
	call = bpf_map_lookup_elem(&parked, &key);
	thread = call ? thread_of(ids, slot) : 0;
	if (!thread)
		return 0;
	if (thread->call & NL_CALL_AT_EXITS)
		park_call(thread);
	else if (thread->call != NL_ALLOC_CALL_NONE)
		abandon_call(thread);
	thread->call = call->call;
	thread->held = call->held;
	thread->skipped = call->skipped;
	thread->sp = call->sp;
	thread->ip = call->ip;
	thread->size = call->size;
	thread->pointer = call->pointer;
	thread->return_address = call->return_address;
	thread->weight = call->weight;
	thread->function = call->function;
	thread->old = call->old;
	thread->fp = call->fp;
	bpf_map_delete_elem(&parked, &key);
	return thread;
}

SEC("uprobe")
int on_exits_entry(struct pt_regs *ctx)
{
	enter_call(ctx, cookie_of(ctx), current_ids(), 0, AT_EXITS);
	return 0;
}

SEC("uprobe")
int on_alloc_exit(struct pt_regs *ctx)
{
	u64 cookie = cookie_of(ctx), ids;
	u32 number = NL_EXIT_REGISTER(cookie);
	struct nl_thread *thread;

	if (NL_EXIT_HAS_CONDITION(cookie) && !holds_condition(ctx, NL_EXIT_CONDITION(cookie)))
		return 0;
	ids = current_ids();
	thread = find_thread((u32)ids);
	if (!thread || !(thread->call & NL_CALL_AT_EXITS) ||
	    thread->sp != REG_SP(ctx) + 8 * NL_EXIT_WORDS(cookie))
		thread = unpark_call(ctx, cookie, ids);
	if (!thread)
		return 0;
	if (number == NL_EXIT_UNSEEN) {
		abandon_call(thread);
		return 0;
	}
	return end_call(ctx, thread, 1, number < NL_EXIT_ZERO ? register_of(ctx, number) : 0);
}
