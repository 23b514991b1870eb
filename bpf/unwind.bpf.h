/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The walk over native frames without frame pointers, by tables of call sites. Global functions, because
 * the verifier checks each of them once and on its own; they take numbers only, so the state of a walk
 * lies in a scratch buffer whose index goes along. Searches have no branches: one path to check.
 */
#ifndef NATIVELEAK_UNWIND_BPF_H
#define NATIVELEAK_UNWIND_BPF_H

#include "common.bpf.h"
#include "hotspot.bpf.h"
#include "scratch.bpf.h"

/* A frame larger than this is taken for a broken chain. */
#define MAX_FRAME_BYTES (64 << 20)
/* How far up a guessed frame pointer may lead. Thread stacks are 8 MiB by default. */
#define MAX_GUESS_BYTES (1 << 20)

/* slot * 2 + bank -> mappings. Written by user space, sized by the loader. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, u32);
	__type(value, struct nl_mappings);
} mappings SEC(".maps");

struct table_chunk {
	u32 words[NL_CHUNK_WORDS];
};

struct table {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_INNER_MAP);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(u32));
	__uint(value_size, NL_CHUNK_WORDS * sizeof(u32));
};

/* Index -> unwind table of one object. Written by user space, never deleted. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4096); /* MAX_TABLES in abi.py */
	__type(key, u32);
	__array(values, struct table);
} tables SEC(".maps");

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

/* 1 if a < b, else 0, without a branch. Both below 2^63. */
static __always_inline u64 less(u64 a, u64 b)
{
	u64 difference = a - b;

	/* Keeps clang from making a branch of it after all, and the verifier from a path for each. */
	asm volatile("" : "+r"(difference));
	return difference >> 63;
}

/*
 * A step of a search. clang must not know which bits the place can have, else it adds by `|`, of which the
 * verifier kept no bounds up to Linux 6.9 ("bpf/verifier: improve XOR and OR range computation").
 */
static __always_inline u64 step_forward(u64 at, u64 by)
{
	at += by;
	asm volatile("" : "+r"(at));
	return at;
}

/* Index of the mapping that holds an address, or -1. `which` is slot * 2 + bank. */
__noinline int find_mapping(u32 which, u64 address)
{
	struct nl_mappings *maps = bpf_map_lookup_elem(&mappings, &which);
	u64 at = 0, n;

	if (!maps)
		return -1;
	n = maps->n;
#pragma unroll
	for (u32 step = NL_MAX_MAPPINGS / 2; step; step >>= 1) {
		u64 next = at + step;
		u64 start = maps->mappings[next & (NL_MAX_MAPPINGS - 1)].start;

		at = step_forward(at, step * (less(next, n) & (less(address, start) ^ 1)));
	}
	at &= NL_MAX_MAPPINGS - 1;
	if (!n || address < maps->mappings[at].start || address >= maps->mappings[at].end)
		return -1;
	return at;
}

/* The rule in force at an address of an object, 0 where there is none; bit 63 of full tables is set. */
__noinline u64 find_rule(u32 index, u64 address)
{
	void *table = bpf_map_lookup_elem(&tables, &index);
	struct table_chunk *head, *chunk;
	u32 zero = 0, number, entry, first, n;
	u64 page, low, at = 0, rule;

	if (!table)
		return 0;
	head = bpf_map_lookup_elem(table, &zero);
	if (!head)
		return 0;
	page = (address >> (head->words[NL_TABLE_SHIFT] & 31)) - head->words[NL_TABLE_FIRST_PAGE];
	if (page >= head->words[NL_TABLE_PAGES])
		return 0;
	low = address & ((1ULL << (head->words[NL_TABLE_SHIFT] & 31)) - 1);

	number = (NL_TABLE_DIRECTORY + page) / NL_CHUNK_WORDS;
	chunk = bpf_map_lookup_elem(table, &number);
	if (!chunk)
		return 0;
	entry = chunk->words[(NL_TABLE_DIRECTORY + page) & (NL_CHUNK_WORDS - 1)];
	first = entry >> 10;
	n = entry & (NL_CHUNK_WORDS - 1);
	if (!n)
		return 0;
	number = first / NL_CHUNK_WORDS;
	chunk = bpf_map_lookup_elem(table, &number);
	if (!chunk)
		return 0;
#pragma unroll
	for (u32 step = NL_CHUNK_WORDS / 2; step; step >>= 1) {
		u64 next = at + step;
		u64 start = chunk->words[(first + next) & (NL_CHUNK_WORDS - 1)] & 0xffff;

		at = step_forward(at, step * (less(next, n) & (less(low, start) ^ 1)));
	}
	entry = head->words[NL_TABLE_RULES] +
		2 * (chunk->words[(first + at) & (NL_CHUNK_WORDS - 1)] >> 16);
	number = entry / NL_CHUNK_WORDS;
	chunk = bpf_map_lookup_elem(table, &number);
	if (!chunk)
		return 0;
	rule = chunk->words[entry & (NL_CHUNK_WORDS - 1)];
	return rule | (u64)chunk->words[(entry + 1) & (NL_CHUNK_WORDS - 1)] << 32;
}

__noinline u32 is_full_table(u32 index)
{
	void *table = bpf_map_lookup_elem(&tables, &index);
	struct table_chunk *head;
	u32 zero = 0;

	if (!table)
		return 0;
	head = bpf_map_lookup_elem(table, &zero);
	return head && head->words[NL_TABLE_FORMAT] & NL_TABLE_FULL;
}

/* Make sure that map_* are those of `at`; 0 where no code is known to be. */
static __always_inline int take_mapping(struct scratch *scr, u64 at)
{
	u32 which = scr->slot * 2 + scr->bank;
	struct nl_mappings *maps;
	struct nl_mapping *map;
	int i;

	if (at >= scr->map_start && at < scr->map_end)
		return 1;
	i = find_mapping(which, at);
	if (i < 0)
		return 0;
	maps = bpf_map_lookup_elem(&mappings, &which);
	if (!maps)
		return 0;
	map = &maps->mappings[i & (NL_MAX_MAPPINGS - 1)];
	scr->map_start = map->start;
	scr->map_end = map->end;
	scr->map_bias = map->bias;
	scr->map_table = map->table;
	return 1;
}

#if defined(__TARGET_ARCH_x86)

/* Registers of an interrupted thread. Source: struct rt_sigframe, struct sigcontext (x86-64). */
#define SIGFRAME_RBP 120
struct saved_registers {
	u64 rbp, rbx, rdx, rax, rcx, rsp, rip;
};

/* The frame is a signal handler's return trampoline: go on where the signal came. */
static __noinline int step_signal(struct scratch *scr)
{
	struct saved_registers saved;

	if (bpf_probe_read_user(&saved, sizeof(saved), (void *)(scr->sp + SIGFRAME_RBP)))
		return end_walk(scr, NL_END_READ);
	scr->fp = saved.rbp;
	scr->sp = saved.rsp;
	scr->pc = saved.rip;
	scr->exact = 1;
	scr->found = NL_FOUND_SIGNAL;
	/* The table that will be asked decides whether the frames above are certain. */
	if (take_mapping(scr, saved.rip) && scr->map_table != NL_NO_TABLE &&
	    is_full_table(scr->map_table))
		scr->found = NL_FOUND_EXACT;
	return 0;
}

/* The frame's caller by the canonical frame address. */
static __always_inline int step_to_cfa(struct scratch *scr, u64 rule, u64 cfa)
{
	s64 rbp_offset = (__s16)(rule >> 16);
	u32 rbp_rule = (rule >> 8) & 0xff;
	u64 saved[2], at;

	if (cfa <= scr->sp || cfa - scr->sp > MAX_FRAME_BYTES)
		return end_walk(scr, NL_END_BAD_SP);
	if (rbp_rule == NL_RBP_AT_CFA && rbp_offset == -16) {
		/* rbp and the return address lie side by side. */
		if (bpf_probe_read_user(saved, sizeof(saved), (void *)(cfa - 16)))
			return end_walk(scr, NL_END_READ);
		scr->fp = saved[0];
		scr->pc = saved[1];
	} else {
		if (bpf_probe_read_user(&scr->pc, sizeof(u64), (void *)(cfa - 8)))
			return end_walk(scr, NL_END_READ);
		at = (rbp_rule == NL_RBP_AT_CFA ? cfa : scr->fp) + rbp_offset;
		if (rbp_rule != NL_RBP_SAME &&
		    bpf_probe_read_user(&scr->fp, sizeof(u64), (void *)at))
			return end_walk(scr, NL_END_READ);
	}
	if (scr->n_hijacked) {
#pragma unroll
		for (int i = 0; i < 1 + NL_NESTED_CALLS; i++)
			if (cfa - 8 == scr->hijacked[i].at)
				scr->pc = scr->hijacked[i].address;
	}
	scr->sp = cfa;
	return 0;
}

/* A stub of the procedure linkage table: one or two words pushed, by where in its 16 bytes it is. */
static __always_inline int step_plt(struct scratch *scr, u64 rule, u64 pc)
{
	u64 cfa = scr->sp + 8 + ((pc & 15) >= rule >> 32 ? 8 : 0);

	if (bpf_probe_read_user(&scr->pc, sizeof(u64), (void *)(cfa - 8)))
		return end_walk(scr, NL_END_READ);
	scr->sp = cfa;
	return 0;
}

/* Code without a table: a frame pointer, if it looks like one. */
static __always_inline int step_guess(struct scratch *scr, int is_mapped)
{
	u64 fp = scr->fp, frame[2];
	u32 end = is_mapped ? NL_END_NO_TABLE : NL_END_NO_MAPPING;

	if (fp & 7 || fp < scr->sp || fp - scr->sp > MAX_GUESS_BYTES)
		return end_walk(scr, end);
	if (bpf_probe_read_user(frame, sizeof(frame), (void *)fp))
		return end_walk(scr, end);
	if (!frame[1] || find_mapping(scr->slot * 2 + scr->bank, frame[1] - 1) < 0 ||
	    !follows_call(frame[1]))
		return end_walk(scr, end);
	scr->fp = frame[0];
	scr->pc = frame[1];
	scr->sp = fp + 16;
	scr->found = NL_FOUND_GUESS;
	return 0;
}

/* One native frame up: push the frame at pc, find its caller. Returns 1 when the walk has ended. */
__noinline int step_native(u32 index)
{
	struct scratch *scr = bpf_map_lookup_elem(&scratch, &index);
	u64 pc, at, rule = 0, cfa;
	int is_mapped, exact;

	if (!scr)
		return 1;
	pc = scr->pc;
	if (!pc)
		return end_walk(scr, NL_END_STALL);
	exact = scr->exact;
	at = exact ? pc : pc - 1;
	is_mapped = take_mapping(scr, at);
	if (is_mapped && scr->map_table != NL_NO_TABLE)
		rule = find_rule(scr->map_table, at - scr->map_bias);
	if (!(rule & 0xff) && !exact && !follows_call(pc)) {
		/* No return address: makecontext's trampoline, or one that code made up for a root. */
		push_frame(scr, pc, 0);
		return end_walk(scr, is_mapped ? NL_END_ROOT : NL_END_NO_MAPPING);
	}
	push_frame(scr, pc, 0);
	scr->exact = 0;
	scr->found = NL_FOUND_EXACT;
	switch (rule & 0xff) {
	case NL_RULE_NONE:
		return step_guess(scr, is_mapped);
	case NL_RULE_RSP:
		return step_to_cfa(scr, rule, scr->sp + (s32)(rule >> 32));
	case NL_RULE_RBP:
		return step_to_cfa(scr, rule, scr->fp + (s32)(rule >> 32));
	case NL_RULE_RBP_DEREF:
		if (bpf_probe_read_user(&cfa, sizeof(cfa), (void *)(scr->fp + (__s16)(rule >> 32))))
			return end_walk(scr, NL_END_READ);
		return step_to_cfa(scr, rule, cfa + (rule >> 48));
	case NL_RULE_SIGNAL:
		return step_signal(scr);
	case NL_RULE_ROOT:
		return end_walk(scr, NL_END_ROOT);
	case NL_RULE_PLT:
		return step_plt(scr, rule, pc);
	default:
		return end_walk(scr, NL_END_RULE);
	}
}

/* One frame up, native or Java. Returns 1 when the walk has ended. */
__noinline int step(u32 index)
{
	struct scratch *scr = bpf_map_lookup_elem(&scratch, &index);

	if (!scr)
		return 1;
	if (is_java(scr->slot, scr->pc) ? !step_java(index) : !step_native(index))
		return 0;
	if (scr->end == NL_END_ROOT)
		return 1;
	return resume_at_anchor(index, scr->end);
}
#else
/* Tables are made for x86-64 only so far: elsewhere every walk is by frame pointers. */
__noinline int step(u32 index)
{
	struct scratch *scr = bpf_map_lookup_elem(&scratch, &index);

	return scr ? end_walk(scr, NL_END_NO_TABLE) : 1;
}
#endif

__noinline int walk_some(u32 index)
{
	/* An argument that clang thinks unused would be left unset, which the verifier refuses. */
	asm volatile("" ::"r"(index));
	for (u32 i = 0; i < NL_STEPS; i++)
		if (step(index))
			return 1;
	return 0;
}

__noinline int walk_tables(u32 index)
{
	struct scratch *scr;

	asm volatile("" ::"r"(index));
	for (u32 i = 0; i < NL_STEPS; i++)
		if (walk_some(index))
			return 0;
	scr = bpf_map_lookup_elem(&scratch, &index);
	if (scr)
		scr->end = NL_END_STEPS;
	return 0;
}

#endif /* NATIVELEAK_UNWIND_BPF_H */
