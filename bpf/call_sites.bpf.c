// SPDX-License-Identifier: GPL-2.0
/*
 * Call sites of the allocator that are watched by themselves (probes/call_sites.py): a probe at the call instruction, and
 * one where the call returns to. They cost as much as this one call site is hot, and record whether or not all calls are
 * watched. While they are attached a call made here is theirs: probes in the allocator take it for a part of it.
 */
#include "alloc.bpf.h"
#include "arch.bpf.h"
#include "common.bpf.h"
#include "inflight.bpf.h"
#include "nativeleak.h"
#include "threads.bpf.h"

/* Number of a call site -> times its call was reached, whatever call site had the number. Nothing is deleted. */
NL_MAP(call_sites, ARRAY, u32, u64, NL_MAX_CALL_SITES, 0);

SEC("uprobe")
int on_site_call(struct pt_regs *ctx)
{
	u64 cookie = cookie_of(ctx);
	u32 number = NL_SITE_NUMBER(cookie);
	u64 *hits = bpf_map_lookup_elem(&call_sites, &number);

	if (hits)
		__sync_fetch_and_add(hits, 1);
	enter_call(ctx, cookie, current_ids(), 0, AT_SITE);
	return 0;
}

/* The same place may be reached without a call: nothing is in flight then, or a call of another frame. */
SEC("uprobe")
int on_site_return(struct pt_regs *ctx)
{
	struct nl_thread *thread = find_thread((u32)current_ids());

	if (!thread || !(thread->call & NL_CALL_AT_SITE) || REG_SP(ctx) != RETURN_SP(thread->sp))
		return 0;
	return end_call(ctx, thread, 1, register_of(ctx, NL_EXIT_REGISTER(cookie_of(ctx))));
}
