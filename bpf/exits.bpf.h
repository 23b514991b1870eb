/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Calls that are seen to end at the exits of their function instead of by a return probe (probes/exits.py).
 *
 * Nothing stands in the place of the return address then, so that a call may be left by other ways: an exception, a fiber
 * that yields inside, a signal handler on another stack. At the next entry of the thread the call in flight is settled: the
 * entry is a part of it only if its frame is found on the stack. If not, it may still go on, on another stack: it is parked,
 * by its stack pointer, and found again by its exit. A call that an exception has left stays parked until another call has
 * the same stack pointer, or until others need the room.
 */
#ifndef NATIVELEAK_EXITS_BPF_H
#define NATIVELEAK_EXITS_BPF_H

#include "arch.bpf.h"
#include "common.bpf.h"
#include "counters.bpf.h"
#include "inflight.bpf.h"
#include "live.bpf.h"
#include "nativeleak.h"
#include "scratch.bpf.h"
#include "stack.bpf.h"
#include "targets.bpf.h"

/*
 * Stack pointer at the entry | slot << 56 -> call that was in flight when its thread was seen on another stack. Deleted at
 * the call's exit, and at the next entry with this stack pointer. Full: the one that was used longest ago goes.
 */
NL_MAP(parked, LRU_HASH, u64, struct nl_thread, 1 << 10, 0);

/* slot -> has a call ever been parked? Mostly none has, and the map above need not be asked. Nothing is deleted. */
NL_MAP(has_parked, ARRAY, u32, u32, NL_MAX_TARGETS, 0);

/* Frames that are looked at for the call in flight: it is the caller, or near it. */
#define CLIMB_STEPS 24

enum climbed { CLIMB_FOUND, CLIMB_PASSED, CLIMB_LOST };

static __always_inline u64 read_return_address(u64 sp)
{
	u64 word = 0;

	bpf_probe_read_user(&word, sizeof(word), (void *)sp);
	return word;
}

#if HAS_UNWIND_TABLES && !defined(NATIVELEAK_BCC)
/*
 * Go up to the frame whose return address is at `sp`. Allocators do not call Java, whose frames would need more than the
 * 512 bytes of stack that the kernel gives to all functions under way.
 */
NL_GLOBAL int climb(u32 index, u64 sp)
{
	struct scratch *scr = bpf_map_lookup_elem(&scratch, &index);

	if (!scr)
		return CLIMB_LOST;
	for (u32 i = 0; i < CLIMB_STEPS; i++) {
		int result;

		if (is_managed(scr, scr->pc))
			return CLIMB_PASSED;
		result = step_known(scr);
		if (result < 0 || (result && step_native(index)))
			return scr->end == NL_END_ROOT ? CLIMB_PASSED : CLIMB_LOST;
		/* A signal has interrupted what is above: its handler's calls are calls of the program. */
		if (scr->exact)
			return CLIMB_PASSED;
		if (scr->sp > sp)
			return scr->sp == RETURN_SP(sp) ? CLIMB_FOUND : CLIMB_PASSED;
	}
	return CLIMB_LOST;
}

/* Is the frame with its return address at `outer` among the callers of the function entered with `sp`? enum climbed. */
static __always_inline int find_frame(struct pt_regs *ctx, u32 slot, u64 sp, u64 outer)
{
	struct nl_target *target = bpf_map_lookup_elem(&targets, &slot);
	struct scratch *scr;
	int result;

	if (!target || !HAS_TABLES(target))
		return CLIMB_LOST;
	scr = take_scratch();
	if (!scr)
		return CLIMB_LOST;
	begin_stack(scr, target, slot);
	scr->pc = read_return_address(sp);
	scr->sp = RETURN_SP(sp);
	scr->fp = REG_FP(ctx);
	result = climb(scr->index, outer);
	release_scratch(scr);
	return result;
}
#else
static __always_inline int find_frame(struct pt_regs *ctx, u32 slot, u64 sp, u64 outer)
{
	(void)ctx;
	(void)slot;
	(void)sp;
	(void)outer;
	return CLIMB_LOST;
}
#endif

/* Forget a call that was left by an exception. A block that it held goes back. */
static __always_inline void drop_call(struct nl_thread *thread)
{
	count(NL_FAILED);
	if (thread->held)
		put_back(thread);
	thread->call = NL_ALLOC_CALL_NONE;
}

static __always_inline void park_call(struct nl_thread *thread)
{
	u64 key = block_key(thread->sp, thread->slot);
	u32 slot = thread->slot, *any = bpf_map_lookup_elem(&has_parked, &slot);

	if (!any || bpf_map_update_elem(&parked, &key, thread, BPF_ANY)) {
		abandon_call(thread);
		return;
	}
	*(volatile u32 *)any = 1;
	thread->held = 0;
	thread->call = NL_ALLOC_CALL_NONE;
}

/* A call begins with this stack pointer: one that was parked with the same never came to an exit. */
static __always_inline void forget_parked(u32 slot, u64 sp)
{
	u64 key = block_key(sp, slot);
	u32 *any = bpf_map_lookup_elem(&has_parked, &slot);
	struct nl_thread *call;

	if (!any || !*(volatile u32 *)any)
		return;
	call = bpf_map_lookup_elem(&parked, &key);
	if (!call)
		return;
	drop_call(call);
	bpf_map_delete_elem(&parked, &key);
}

/*
 * A function is entered while a call is in flight that ends at exits. Returns whether the entry is a part of that call. If
 * not, nothing is in flight afterwards. `at_exits`: the function entered ends at exits too.
 */
static __noinline int settle_call(struct pt_regs *ctx, struct nl_thread *thread, u64 cookie,
				  int at_exits)
{
	u64 sp = REG_SP(ctx) + NL_COOKIE_PUSHED(cookie);
	u64 ip = REG_IP(ctx) - NL_COOKIE_OFFSET(cookie);
	int found;

	if (sp == thread->sp) {
		/* The same call instruction enters the same function: the one before was left by an exception. */
		if (ip == thread->ip || !keeps_return_address(thread)) {
			drop_call(thread);
			return 0;
		}
		/* Reached by a jump. Its exits are those of the call in flight; a return probe's call is its own. */
		if (at_exits)
			return 1;
		if (thread->held)
			put_back(thread);
		thread->call = NL_ALLOC_CALL_NONE;
		return 0;
	}
	if (sp < thread->sp) {
		if (!keeps_return_address(thread)) {
			drop_call(thread);
			return 0;
		}
		if (!(thread->call & NL_CALL_OPEN)) {
			found = find_frame(ctx, thread->slot, sp, thread->sp);
			if (found == CLIMB_FOUND ||
			    (found == CLIMB_LOST && is_inside_call(thread, sp)))
				return 1;
		}
	}
	park_call(thread);
	return 0;
}

#endif /* NATIVELEAK_EXITS_BPF_H */
