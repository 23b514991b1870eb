/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Calls of the allocator: what happens at the entry and at the end of one, whichever probe sees it.
 *
 * A block leaves the live set at the entry of free and realloc, before another thread can be given its address. It
 * enters at the return of the call that made it. The stack pointer identifies nested calls (an allocator that calls
 * itself or another allocator): while a call is in flight, an entry with a deeper stack is part of it, and only the
 * return with the matching stack pointer is its own.
 *
 * Sampling decides at the entry. The return of a call that is not sampled is then declined where that is safe. A call
 * whose return is declined is not in flight, so calls inside it would be taken for the program's own. Functions that
 * allocate through another one (posix_memalign, realloc(0), operator new, calloc on musl) are recognised by what they
 * do: the first calls of each function are followed to their end, as are all sampled calls and one in 64 of the
 * others. A function that called another allocator function once is always followed. A call that is followed but not
 * sampled is in flight like one outside the size limits: its stack is not walked and it is not recorded.
 */
#ifndef NATIVELEAK_ALLOC_BPF_H
#define NATIVELEAK_ALLOC_BPF_H

#include "arch.bpf.h"
#include "common.bpf.h"
#include "counters.bpf.h"
#include "events.bpf.h"
#include "exits.bpf.h"
#include "inflight.bpf.h"
#include "live.bpf.h"
#include "nativeleak.h"
#include "sampling.bpf.h"
#include "scratch.bpf.h"
#include "sites.bpf.h"
#include "stack.bpf.h"
#include "targets.bpf.h"
#include "threads.bpf.h"

/* slot * NL_FUNCTIONS + number of the function -> whether its returns may be declined. Nothing is deleted. */
NL_MAP(functions, ARRAY, u32, struct nl_function, NL_MAX_TARGETS *NL_FUNCTIONS, 0);

/* [0]: cookie of the running probe, on kernels without cookies. Written by the programs of cookies.py. */
NL_MAP(cookies, PERCPU_ARRAY, u32, u64, 1, 0);

/*
 * Book a block on its site and add it to the live set. `ctx` has the registers at the return of the allocator, or at one
 * of its exits: then those of its caller are the ones from the entry. `is_open`: NL_CALL_OPEN.
 */
static __always_inline int record_block(struct pt_regs *ctx, struct nl_thread *thread, u64 address,
					int at_exits, u32 is_open)
{
	struct nl_site_key key = { .thread = thread->uid, .slot = thread->slot };
	struct nl_live block = {
		.bytes = thread->weight.bytes,
		.count = thread->weight.count,
		.kept = thread->weight.kept,
	};
	struct nl_target *target = active_target(thread->slot);
	struct scratch *scr;
	struct nl_site *site;
	u32 generation;
	int error;

	if (!target)
		return 0;
	generation = target->generation;
	block.born = now_born(target);

	scr = take_scratch();
	if (!scr) {
		/* Only the stack is lost: the block goes to the site for all others. */
		count(NL_NO_SCRATCH);
		key.thread = 0;
		site = bpf_map_lookup_elem(&sites, &key);
	} else {
		begin_stack(scr, target, thread->slot);
		scr->found = thread->ip >> 56;
		push_frame(scr, thread->ip, 0);
		scr->found = NL_FOUND_EXACT;
		scr->pc = at_exits ? thread->return_address : REG_IP(ctx);
		scr->sp = at_exits ? RETURN_SP(thread->sp) : REG_SP(ctx);
		scr->fp = at_exits ? thread->fp : REG_FP(ctx);
		walk(scr, target);
		key.stack = stack_key(scr);
		site = site_of(&key, scr);
		release_scratch(scr);
	}
	if (!site)
		goto lost;
	block.stack = key.stack;
	block.thread = key.thread;

	/* Booked before it can be found, so that totals never show more freed than allocated. */
	book_allocated(site, &block, generation);
	error = put_block_here(address, thread->slot, &block);
	if (error == -EEXIST && is_open) {
		/* A call inside of this one has made the block, and is its site. */
		unbook_allocated(site, &block, generation);
		count(NL_NESTED);
		return 0;
	}
	if (error == -EEXIST)
		error = replace_block(&block, address, thread->slot, generation);
	if (!error)
		return 0;
	unbook_allocated(site, &block, generation);
lost:
	count_n(NL_LOST_ALLOCATIONS, block.count);
	count_n(NL_LOST_BYTES, block.bytes);
	return 0;
}

/* How the end of a call is seen. */
enum ends { AT_RETURN, AT_EXITS, AT_SITE };

/* The same as is_nested, where the entry or the call in flight is at a call site. What an exception has left is dropped. */
static __always_inline int is_nested_at_site(struct nl_thread *thread, u64 sp, int at)
{
	/* The call instruction itself is reached again: the call before never returned. */
	int nested = (at != AT_SITE || sp != thread->sp) && is_inside_call(thread, sp);

	if (!nested && thread->call & NL_CALL_AT_EXITS)
		drop_call(thread);
	else if (!nested)
		abandon_call(thread);
	return nested;
}

/*
 * Is this entry part of the call in flight? Also if it was reached by a jump, with the same stack pointer. If not, nothing
 * is in flight afterwards.
 */
static __always_inline int is_nested(struct pt_regs *ctx, struct nl_thread *thread, u64 cookie,
				     u64 sp, int at)
{
	int nested;

	if (at == AT_SITE || thread->call & NL_CALL_AT_SITE)
		return is_nested_at_site(thread, sp, at);
	if (thread->call & NL_CALL_AT_EXITS)
		return settle_call(ctx, thread, cookie, at);
	/* After a jump the return address is the kernel's trampoline, not that of the call in flight. */
	if (HAS_LINK_REGISTER && sp == thread->sp)
		nested = link_register(ctx) != thread->return_address;
	else
		nested = is_inside_call(thread, sp);
	if (!nested)
		abandon_call(thread);
	return nested;
}

/* No address space has room for a block of 1 << IMPOSSIBLE_SHIFT bytes: the call fails. */
#define IMPOSSIBLE_SHIFT 48

/* n * size, or the largest number on overflow. */
static __always_inline u64 product(u64 n, u64 size)
{
	u64 most = size ? ~0ULL / size : ~0ULL;

	/* Without this, clang makes a 128-bit product, which BPF does not have. */
	asm volatile("" : "+r"(most));
	/* Wrapped, it could be 0, which means "free" to realloc; the call really fails. */
	return n > most ? ~0ULL : n * size;
}

/* Bytes that a call asks for. */
static __always_inline u64 requested_size(const struct arguments *args, u32 call)
{
	switch (call) {
	case NL_ALLOC_CALL_CALLOC:
		return product(args->first, args->second);
	case NL_ALLOC_CALL_REALLOCARRAY:
	case NL_ALLOC_CALL_HEAP_CALLOC:
		return product(args->second, args->third);
	case NL_ALLOC_CALL_REALLOC:
	case NL_ALLOC_CALL_ALIGNED_ALLOC:
		return args->second;
	case NL_ALLOC_CALL_POSIX_MEMALIGN:
	case NL_ALLOC_CALL_HEAP_REALLOC:
		return args->third;
	default:
		return args->first;
	}
}

static __always_inline int outside_limits(const struct nl_target *target, u64 size)
{
	return size < target->min_size || (target->max_size && size > target->max_size);
}

/* Count a free, or the old block of a realloc, that is not in the live set. */
static __always_inline void count_unmatched(const struct nl_target *target)
{
	count(target->flags & NL_TARGET_PARTIAL ? NL_UNSAMPLED_FREES : NL_UNMATCHED_FREES);
}

/* May the return of a call that is not sampled be declined? See the top of this file. */
static __always_inline int is_declined(struct nl_thread *thread, const struct nl_target *target)
{
	struct nl_function *function;
	u32 index = thread->function;

	/* Without tables, a stack does not tell the allocator's system calls from the program's. */
	if (!index || target->unwind != NL_UNWIND_TABLES)
		return 0;
	function = bpf_map_lookup_elem(&functions, &index);
	if (!function || function->nests)
		return 0;
	if (function->calls < NL_LEAF_CALLS) {
		function->calls++;
		return 0;
	}
	/* Random enough, and free. Shifted, because many blocks are multiples of 16. */
	return (thread->until_sample >> 4 & (NL_LEAF_CALLS - 1)) != 0;
}

/* Note that the function of the call in flight calls other allocator functions. */
static __always_inline void learn_nesting(const struct nl_thread *thread)
{
	u32 index = thread->function;
	struct nl_function *function = index ? bpf_map_lookup_elem(&functions, &index) : 0;

	if (function && !function->nests)
		function->nests = 1;
}

/*
 * Handle the entry of an allocating function. Returns whether its return is wanted. `ids` are those of the running
 * thread; `thread` is its state, or 0 if the caller has not looked it up. `at`: how its end is seen.
 */
static __always_inline int enter_call(struct pt_regs *ctx, u64 cookie, u64 ids,
				      struct nl_thread *thread, int at)
{
	u32 slot = NL_COOKIE_SLOT(cookie), call = NL_COOKIE_CALL(cookie);
	struct nl_target *target = active_target(slot);
	struct arguments args;
	/* Stack pointer at the first instruction of the function; a call instruction has not pushed yet. */
	u64 sp = at == AT_SITE ? REG_SP(ctx) - 8 : REG_SP(ctx) + NL_COOKIE_PUSHED(cookie), size;

	if (!target) {
		if (is_counting(slot)) {
			count(NL_CALLS);
			count(NL_DECLINED);
		}
		return 0;
	}
	/* A forked child has the same probes, but it is not the target. */
	if (target->tgid != ids >> 32)
		return 0;
	if (count_roughly(NL_CALLS) && !(target->flags & NL_TARGET_NO_BUDGET))
		tell_busy(slot);
	args = arguments_of(ctx, cookie);
	size = requested_size(&args, call);
	if (call == NL_ALLOC_CALL_NEW && size >> IMPOSSIBLE_SHIFT) {
		/* It will throw, and an exception that crosses the kernel's return trampoline ends the process. */
		count(NL_FAILED);
		count(NL_DECLINED);
		return 0;
	}
	if (!thread)
		thread = thread_of(ids, slot);
	if (!thread) {
		count(NL_DECLINED);
		if (size >> IMPOSSIBLE_SHIFT)
			return 0;
		count(NL_LOST_ALLOCATIONS);
		count_n(NL_LOST_BYTES, size);
		return 0;
	}
	if (thread->call != NL_ALLOC_CALL_NONE && is_nested(ctx, thread, cookie, sp, at)) {
		count(NL_NESTED);
		count(NL_DECLINED);
		learn_nesting(thread);
		return 0;
	}
	if (at)
		forget_parked(slot, sp);
	thread->probed = REG_IP(ctx);
	thread->function = at ? 0 : NL_COOKIE_FUNCTION(cookie);
	if (thread->function)
		thread->function += slot * NL_FUNCTIONS;
	/* Skipped, but still in flight: calls inside it are part of it. */
	thread->skipped = outside_limits(target, size);
	if (thread->skipped) {
		count(NL_SKIPPED);
	} else if ((target->flags & NL_TARGET_FREES && at != AT_SITE) ||
		   !is_sampled(thread, target, size)) {
		count(NL_UNSAMPLED);
		if (is_declined(thread, target)) {
			count(NL_DECLINED);
			return 0;
		}
		thread->skipped = 1;
	}
	thread->held = 0;
	if (call == NL_ALLOC_CALL_REALLOC || call == NL_ALLOC_CALL_REALLOCARRAY ||
	    call == NL_ALLOC_CALL_HEAP_REALLOC) {
		thread->pointer = call == NL_ALLOC_CALL_HEAP_REALLOC ? args.second : args.first;
		if (thread->pointer) {
			thread->held = take_block(thread->pointer, slot, &thread->old);
			if (!thread->held)
				count_unmatched(target);
		}
	} else if (call == NL_ALLOC_CALL_POSIX_MEMALIGN) {
		thread->pointer = args.first;
	}
	thread->size = size;
	thread->sp = sp;
	thread->ip = REG_IP(ctx) - NL_COOKIE_OFFSET(cookie);
	if (HAS_LINK_REGISTER)
		thread->return_address = link_register(ctx);
	if (at) {
		thread->fp = REG_FP(ctx);
		call |= NL_CALL_AT_EXITS;
	}
	if (at == AT_EXITS) {
		thread->return_address = read_return_address(sp);
		call |= NL_COOKIE_FUNCTION(cookie) ? NL_CALL_OPEN : 0;
	} else if (at == AT_SITE) {
		thread->return_address = REG_IP(ctx) + NL_SITE_BYTES(cookie);
		thread->ip = REG_IP(ctx) | (u64)NL_FOUND_SITE << 56;
		call |= NL_CALL_AT_SITE;
	}
	thread->call = call;
	return 1;
}

/* The end of a realloc: its old block is freed, or goes back. */
static __always_inline void leave_realloc(struct nl_thread *thread, struct nl_target *target,
					  u64 result)
{
	if (!thread->held)
		return;
	/* It failed, so the old block is still there. realloc(p, 0) returns NULL too, but frees. */
	if (!result && thread->size) {
		put_back(thread);
	} else {
		thread->held = 0;
		book_freed(&thread->old, thread->slot, target->generation);
	}
}

/* The end of a call, at its return or one of its exits, where `value` is what it returns. Nothing is in flight then. */
static __always_inline int end_call(struct pt_regs *ctx, struct nl_thread *thread, int at_exits,
				    u64 value)
{
	struct nl_target *target;
	u64 result;
	u32 call = thread->call, is_open = 0;

	thread->call = NL_ALLOC_CALL_NONE;
	target = active_target(thread->slot);
	if (!target)
		return 0;
	if (at_exits) {
		is_open = call & NL_CALL_OPEN;
		call &= ~(NL_CALL_AT_EXITS | NL_CALL_OPEN | NL_CALL_AT_SITE);
	}
	result = at_exits ? value : REG_RESULT(ctx);
	if (call == NL_ALLOC_CALL_POSIX_MEMALIGN) {
		if ((s32)result) {
			result = 0;
		} else if (bpf_probe_read_user(&result, sizeof(result), (void *)thread->pointer)) {
			count(NL_BAD_POINTER);
			return 0;
		}
	}
	leave_realloc(thread, target, result);
	if (!result) {
		count(NL_FAILED);
		return 0;
	}
	if (thread->skipped)
		return 0;
	return record_block(ctx, thread, result, at_exits, is_open);
}

/* Handle the return of an allocating function. */
static __always_inline int leave_call(struct pt_regs *ctx, u64 ids)
{
	u32 tid = (u32)ids;
	struct nl_thread *thread = find_thread(tid);

	if (!thread || thread->call == NL_ALLOC_CALL_NONE || REG_SP(ctx) != RETURN_SP(thread->sp))
		return 0;
	return end_call(ctx, thread, 0, 0);
}

/* The cookie of the running probe. */
static __always_inline u64 cookie_of(struct pt_regs *ctx)
{
	u32 zero = 0;
	u64 *cookie;

	if (!(kernel_lacks & NL_LACKS_COOKIES))
		return bpf_get_attach_cookie(ctx);
	cookie = bpf_map_lookup_elem(&cookies, &zero);
	return cookie ? *cookie : 0;
}

#endif /* NATIVELEAK_ALLOC_BPF_H */
