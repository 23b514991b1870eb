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

/* The call of the running thread that comes to an exit with this cookie, in flight or parked; 0 if it is not followed. */
static __always_inline struct nl_thread *find_call(struct pt_regs *ctx, u64 cookie, u64 ids,
						   u64 *parked_key)
{
	u64 sp = REG_SP(ctx) + 8 * NL_EXIT_WORDS(cookie);
	u32 slot = NL_COOKIE_SLOT(cookie), *any;
	struct nl_thread *thread = find_thread((u32)ids);
	struct nl_target *target;

	if (thread && thread->call & NL_CALL_AT_EXITS && thread->sp == sp)
		return thread;
	any = bpf_map_lookup_elem(&has_parked, &slot);
	target = bpf_map_lookup_elem(&targets, &slot);
	/* A forked child has the same addresses, but it is not the target. */
	if (!any || !*(volatile u32 *)any || !target || target->tgid != ids >> 32)
		return 0;
	*parked_key = block_key(sp, slot);
	return bpf_map_lookup_elem(&parked, parked_key);
}

SEC("uprobe")
int on_exits_entry(struct pt_regs *ctx)
{
	enter_call(ctx, cookie_of(ctx), current_ids(), 0, 1);
	return 0;
}

SEC("uprobe")
int on_alloc_exit(struct pt_regs *ctx)
{
	u64 cookie = cookie_of(ctx), parked_key = 0;
	u32 number = NL_EXIT_REGISTER(cookie);
	struct nl_thread *call;

	if (NL_EXIT_HAS_CONDITION(cookie) && !holds_condition(ctx, NL_EXIT_CONDITION(cookie)))
		return 0;
	call = find_call(ctx, cookie, current_ids(), &parked_key);
	if (!call)
		return 0;
	if (number == NL_EXIT_UNSEEN)
		abandon_call(call);
	else
		end_call(ctx, call, 1, number < NL_EXIT_ZERO ? register_of(ctx, number) : 0);
	if (parked_key)
		bpf_map_delete_elem(&parked, &parked_key);
	return 0;
}
