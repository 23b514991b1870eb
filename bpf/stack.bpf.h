/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Stacks: begin, walk, key, store. The kernel's own walk (bpf_get_stack) needs frame pointers, costs three times as
 * much, and misses the caller of a function that has not set up its frame yet.
 */
#ifndef NATIVELEAK_STACK_BPF_H
#define NATIVELEAK_STACK_BPF_H

#include "arch.bpf.h"
#include "common.bpf.h"
#include "counters.bpf.h"
#include "events.bpf.h"
#include "nativeleak.h"
#include "scratch.bpf.h"
#ifdef NATIVELEAK_BCC
#define HAS_TABLES(target) 0
static __always_inline void walk_tables(u32 index)
{
	(void)index;
}
#else
#include "runtime.bpf.h"
#include "unwind.bpf.h"
#define HAS_TABLES(target) ((target)->unwind == NL_UNWIND_TABLES)
#endif

/*
 * Key -> stack that user space has not fetched yet. User space adds the key to known_stacks and deletes it here, so
 * this map has new stacks only. Full: the stack is counted as lost.
 */
NL_MAP(stacks, HASH, u64, struct nl_stack, 1 << 14, BPF_F_NO_PREALLOC);

/*
 * Key and number of the chunk -> frames of a stack in `stacks`. Deleted with it. Full: the stack is counted as lost.
 */
NL_MAP(stack_frames, HASH, struct nl_chunk_key, struct nl_chunk, 1 << 15, BPF_F_NO_PREALLOC);

/* Key -> second hash of the stack. Written by user space, never deleted. Full: the stack may be stored again. */
NL_MAP(known_stacks, HASH, u64, u32, 1 << 17, BPF_F_NO_PREALLOC);

static __always_inline struct scratch *take_scratch(void)
{
	u32 first = bpf_get_smp_processor_id() * NL_SCRATCH_PER_CPU;

	for (u32 level = 0; level < NL_SCRATCH_PER_CPU; level++) {
		u32 index = first + level;
		struct scratch *scr = bpf_map_lookup_elem(&scratch, &index);

		if (scr && exchange(&scr->busy, 1) == 0) {
			scr->index = index;
			return scr;
		}
	}
	return 0;
}

static __always_inline void release_scratch(struct scratch *scr)
{
	/* No other CPU uses this buffer, and this CPU sees its own writes in order. */
	*(volatile u64 *)&scr->busy = 0;
}

/* Go one frame up by the frame pointer. Returns 1 when the walk has ended. */
static __always_inline int step_frame_pointer(struct scratch *scr)
{
	u64 fp = scr->fp;

	/* The outermost frame of a thread has fp 0: the root. */
	if (!fp)
		return 1;
	if (fp & 7 || fp < scr->sp || fp - scr->sp > MAX_GUESS_BYTES)
		return end_walk(scr, NL_END_NO_FP);
	if (read_two(scr, fp))
		return end_walk(scr, NL_END_READ);
	if (!scr->two[1])
		return 1;
	scr->found = NL_FOUND_FP;
	push_frame(scr, scr->two[1], 0);
	scr->sp = fp + 16;
	scr->fp = scr->two[0];
	return 0;
}

/* Up to NL_STEPS frames by frame pointers. Returns 1 when the walk has ended. */
NL_GLOBAL int walk_some_pointers(u32 index)
{
	struct scratch *scr = bpf_map_lookup_elem(&scratch, &index);

	if (!scr)
		return 1;
	for (u32 i = 0; i < NL_STEPS; i++)
		if (step_frame_pointer(scr))
			return 1;
	return 0;
}

/* All frames after those of the first round. */
NL_GLOBAL int walk_pointers_on(u32 index)
{
	struct scratch *scr;

	asm volatile("" ::"r"(index));
	for (u32 i = 1; i < NL_ROUNDS; i++)
		if (walk_some_pointers(index))
			return 0;
	scr = bpf_map_lookup_elem(&scratch, &index);
	if (scr)
		scr->end = NL_END_STEPS;
	return 0;
}

/* Walk up from scr->fp by frame pointers. */
static __always_inline void walk_frame_pointers(u32 index)
{
	if (!walk_some_pointers(index))
		walk_pointers_on(index);
}

/*
 * Push the caller of a system call wrapper of the C library, for walks by frame pointers. Most wrappers have no
 * frame: on x86-64 the return address is on top of the stack. For the others user space has measured the size of the
 * frame.
 */
static __always_inline void push_wrapper_caller(struct scratch *scr, const struct nl_target *target,
						u64 ip)
{
	u64 word, at = scr->sp;

	for (int i = 0; i < NL_WRAPPERS; i++)
		if (ip >= target->wrappers[i].start && ip < target->wrappers[i].end)
			at += target->wrappers[i].frame_bytes;
	if (bpf_probe_read_user(&word, sizeof(word), (void *)at) || !follows_call(word))
		return;
	push_frame(scr, word, 0);
	scr->sp = at + 8;
}

/* Begin a stack. The slot goes into its hash, because the same addresses mean other code in another target. */
static __always_inline void begin_stack(struct scratch *scr, const struct nl_target *target,
					u32 slot)
{
	scr->slot = slot;
	scr->epoch = target->epoch;
	scr->hash = slot + 1;
	scr->found = NL_FOUND_EXACT;
	scr->exact = 0;
	scr->end = NL_END_ROOT;
	scr->depth = target->max_depth;
	scr->n_replaced = 0;
	reset_runtime_state(scr);
	scr->map_start = 0;
	scr->map_end = 0;
	scr->check = slot;
	scr->n = 0;
	scr->window_at = NL_WINDOW_SHALLOW;
	scr->window_bytes = sizeof(scr->window);
#ifndef NATIVELEAK_BCC
	begin_runtime(scr);
	if (scr->managed_bytes)
		scr->window_at = NL_WINDOW_DEEP;
#endif
}

/* Walk on from the registers in scr. */
static __always_inline void walk(struct scratch *scr, const struct nl_target *target)
{
	if (HAS_TABLES(target)) {
		walk_tables(scr->index);
	} else {
		push_frame(scr, scr->pc, 0);
		walk_frame_pointers(scr->index);
	}
}

static __always_inline u64 stack_key(struct scratch *scr)
{
	u64 hash = scr->hash ^ ((u64)scr->end << 40);

	hash ^= hash >> 29;
	/* 0 means "unknown". */
	return hash ? hash : 1;
}

/* Store a stack, once. Only called for a new site, so not on the hot path. */
static __noinline int store_stack(struct scratch *scr, u64 key)
{
	u32 *check = bpf_map_lookup_elem(&known_stacks, &key);
	struct nl_chunk_key chunk = { .stack = key };
	u32 kept = scr->n < scr->depth ? scr->n : scr->depth;
	struct nl_stack stack = {
		.n = scr->n,
		.depth = scr->depth,
		.end = scr->end,
		.check = scr->check,
		.slot = scr->slot,
	};
	struct nl_event *event;
	int error; /* not long: up to Linux 6.3, the upper half of the result of an update is undefined */

	if (check) {
		if (*check != scr->check)
			count(NL_STACK_COLLISIONS);
		return 0;
	}
	if (bpf_map_lookup_elem(&stacks, &key))
		return 0;
	/* Frames first, so that they are there when the stack is found. */
	for (u32 i = 0; i < NL_MAX_FRAMES / NL_CHUNK_FRAMES; i++) {
		if (i * NL_CHUNK_FRAMES >= kept)
			break;
		chunk.chunk = i;
		if (bpf_map_update_elem(&stack_frames, &chunk, &scr->frames[i * NL_CHUNK_FRAMES],
					BPF_ANY)) {
			count(NL_LOST_STACKS);
			return 0;
		}
	}
	error = bpf_map_update_elem(&stacks, &key, &stack, BPF_NOEXIST);
	if (error == -EEXIST)
		return 0;
	if (error) {
		count(NL_LOST_STACKS);
		return 0;
	}
	/* A lost event only causes a delay: user space sweeps the store at every snapshot. */
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return 0;
	__builtin_memset(event, 0, sizeof(*event));
	event->type = NL_EVENT_STACK;
	event->slot = scr->slot;
	event->stack = key;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

#endif /* NATIVELEAK_STACK_BPF_H */
