/* SPDX-License-Identifier: GPL-2.0 */
/*
 * One walk over the user stack, and the store of stacks. The kernel's own walk (bpf_get_stack) costs
 * three times as much and skips the caller of a function whose frame is not set up yet, so the caller
 * is always taken from the return address, and only what is above it by frame pointers.
 */
#ifndef NATIVELEAK_STACK_BPF_H
#define NATIVELEAK_STACK_BPF_H

#include "common.bpf.h"

/* A frame larger than this is taken for a broken chain. Thread stacks are 8 MiB by default. */
#define MAX_FRAME_BYTES (1 << 20)

struct scratch {
	u32 busy;
	u32 pad;
	u64 fp;
	u64 sp;
	u64 hash;
	struct nl_stack stack;
};

/* cpu * NL_SCRATCH_PER_CPU + level -> buffer of one walk. Sized by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NL_SCRATCH_PER_CPU);
	__type(key, u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

/*
 * key -> frames of a stack that user space has not fetched yet. User space moves the key to known_stacks
 * and deletes it here, so this map holds new stacks only. Full: counted as lost.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 14);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct nl_stack);
} stacks SEC(".maps");

/* key -> second hash. Written by user space, never deleted. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 17);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, u32);
} known_stacks SEC(".maps");

static __always_inline struct scratch *take_scratch(u32 *index)
{
	u32 first = bpf_get_smp_processor_id() * NL_SCRATCH_PER_CPU;

	for (u32 level = 0; level < NL_SCRATCH_PER_CPU; level++) {
		struct scratch *scr;

		*index = first + level;
		scr = bpf_map_lookup_elem(&scratch, index);
		if (scr && __sync_lock_test_and_set(&scr->busy, 1) == 0)
			return scr;
	}
	return 0;
}

static __always_inline void release_scratch(struct scratch *scr)
{
	__sync_lock_test_and_set(&scr->busy, 0);
}

static __always_inline void push_frame(struct scratch *scr, u64 ip)
{
	u32 n = scr->stack.n;

	if (n >= NL_MAX_FRAMES)
		return;
	scr->stack.ips[n] = ip;
	scr->stack.n = n + 1;
	/* Multiplier: 2^64 over the golden ratio, odd. */
	scr->hash = (scr->hash ^ ip) * 0x9e3779b97f4a7c15ULL;
	scr->hash ^= scr->hash >> 32;
	scr->stack.check = scr->stack.check * 31 + (u32)(ip ^ (ip >> 32));
}

/* Walk from scr->fp upwards by frame pointers, at most `depth` frames in all. */
__noinline int walk_frame_pointers(u32 index, u32 depth)
{
	struct scratch *scr = bpf_map_lookup_elem(&scratch, &index);
	u64 frame[2];

	if (!scr)
		return 0;
	for (u32 i = 0; i < NL_MAX_FRAMES; i++) {
		u64 fp = scr->fp;

		/* A thread's outermost frame has fp 0: that is the root as far as can be seen. */
		if (!fp)
			return 0;
		if (fp & 7 || fp < scr->sp || fp - scr->sp > MAX_FRAME_BYTES) {
			scr->stack.flags |= NL_STACK_NO_FP;
			return 0;
		}
		if (bpf_probe_read_user(frame, sizeof(frame), (void *)fp)) {
			scr->stack.flags |= NL_STACK_READ_FAULT;
			return 0;
		}
		if (!frame[1])
			return 0;
		if (scr->stack.n >= depth || scr->stack.n >= NL_MAX_FRAMES) {
			scr->stack.flags |= NL_STACK_TRUNCATED;
			return 0;
		}
		push_frame(scr, frame[1]);
		scr->sp = fp + 16;
		scr->fp = frame[0];
	}
	return 0;
}

/* Does a call instruction end at this address? */
static __always_inline int follows_call(u64 address)
{
#if defined(__TARGET_ARCH_x86)
	u8 code[8];

	if (address < 8 || bpf_probe_read_user(code, sizeof(code), (void *)(address - 8)))
		return 0;
	/*
	 * call rel32 is e8 and four bytes. call through a register or memory is ff /2: its length follows
	 * from the addressing mode in the ModRM byte (Intel SDM vol. 2, table 2-2). A REX prefix stands
	 * before and changes nothing here.
	 */
	if (code[3] == 0xe8)
		return 1;
	if (code[6] == 0xff && ((code[7] & 0xf8) == 0xd0 ||
				((code[7] & 0xf8) == 0x10 && code[7] != 0x14 && code[7] != 0x15)))
		return 1;
	if (code[5] == 0xff && (((code[6] & 0xf8) == 0x50 && code[6] != 0x54) || code[6] == 0x14))
		return 1;
	if (code[4] == 0xff && code[5] == 0x54)
		return 1;
	if (code[2] == 0xff && (((code[3] & 0xf8) == 0x90 && code[3] != 0x94) || code[3] == 0x15))
		return 1;
	return code[1] == 0xff && (code[2] == 0x94 || code[2] == 0x14);
#else
	u32 instruction;

	if (address < 4 || address & 3 ||
	    bpf_probe_read_user(&instruction, sizeof(instruction), (void *)(address - 4)))
		return 0;
	/* bl imm26, blr Xn. Source: Arm ARM, C6.2.33 and C6.2.35. */
	return (instruction & 0xfc000000) == 0x94000000 || (instruction & 0xfffffc1f) == 0xd63f0000;
#endif
}

/*
 * The caller of a system call wrapper of the C library. Most wrappers have no frame: on x86-64 the return
 * address is on top of the stack. Of the others user space has found out how much room they make.
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
	push_frame(scr, word);
	scr->sp = at + 8;
}

/* The same stack in two targets is two: their addresses mean different code. */
static __always_inline void begin_stack(struct scratch *scr, u32 slot, u64 sp, u64 fp)
{
	scr->stack.n = 0;
	scr->stack.flags = 0;
	scr->stack.check = slot;
	scr->stack.slot = slot;
	scr->hash = slot + 1;
	scr->sp = sp;
	scr->fp = fp;
}

static __always_inline u64 stack_key(struct scratch *scr)
{
	u64 hash = scr->hash ^ ((u64)scr->stack.flags << 40);

	hash ^= hash >> 29;
	/* 0 stands for "not known". */
	return hash ? hash : 1;
}

/* Put a stack into the store, once. Called when its site is new, so not on the hot path. */
static __always_inline void store_stack(struct scratch *scr, u64 key, u32 slot)
{
	u32 *check = bpf_map_lookup_elem(&known_stacks, &key);
	struct nl_event *event;
	long error;

	if (check) {
		if (*check != scr->stack.check)
			count(NL_STACK_COLLISIONS);
		return;
	}
	error = bpf_map_update_elem(&stacks, &key, &scr->stack, BPF_NOEXIST);
	if (error == -EEXIST)
		return;
	if (error) {
		count(NL_LOST_STACKS);
		return;
	}
	/* A lost event only delays: user space sweeps the store at every snapshot. */
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event)
		return;
	__builtin_memset(event, 0, sizeof(*event));
	event->type = NL_EVENT_STACK;
	event->slot = slot;
	event->stack = key;
	bpf_ringbuf_submit(event, 0);
}

#endif /* NATIVELEAK_STACK_BPF_H */
