/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The walk over native frames by unwind tables, without frame pointers. Its functions are global, because the
 * verifier checks each of those once, apart from its callers. They take numbers only, so the state of a walk is in a
 * scratch buffer whose index they get. Searches have no branches, so that the verifier checks one path.
 */
#ifndef NATIVELEAK_UNWIND_BPF_H
#define NATIVELEAK_UNWIND_BPF_H

#include "arch.bpf.h"
#include "common.bpf.h"
#include "nativeleak.h"
#include "runtime.bpf.h"
#include "scratch.bpf.h"

/* A larger frame means a broken chain. */
#define MAX_FRAME_BYTES (64 << 20)

/* slot * 2 + low bit of the epoch -> mappings. Written by user space, sized by the loader; nothing is deleted. */
NL_MAP(mappings, ARRAY, u32, struct nl_mappings, 2, 0);

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

/*
 * Index -> unwind table of one object. Written by user space, never deleted. Full: user space leaves objects without
 * a table.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, NL_MAX_TABLES);
	__type(key, u32);
	__array(values, struct table);
} tables SEC(".maps");

/*
 * Hash of place and epoch -> rule that was found there: most stacks of a program go through the same few hundred call
 * sites. A new rule replaces the old one with the same hash. There is no lock: `check` is computed from the place and
 * the rule, so a mix of two entries is not taken for one.
 */
#define NL_CACHED_RULES 4096
struct cached_rule {
	u64 check;
	u64 rule;
};

NL_MAP(cached_rules, ARRAY, u32, struct cached_rule, NL_CACHED_RULES, 0);

/* Place and epoch: an address means other code in another target, and after the mappings have changed. */
static __always_inline u64 place_of(const struct scratch *scr, u64 at)
{
	u64 place = (at ^ (u64)scr->epoch << 40 ^ (u64)scr->slot << 56) * 0x9e3779b97f4a7c15ULL;

	return place ^ place >> 29;
}

/* The multiplier is 2^64 over the golden ratio squared, odd. */
static __always_inline u64 check_of(u64 place, u64 rule)
{
	return place ^ rule * 0x61c8864680b583ebULL;
}

static __always_inline struct cached_rule *cached_at(u64 place)
{
	u32 index = place >> 32 & (NL_CACHED_RULES - 1);

	return bpf_map_lookup_elem(&cached_rules, &index);
}

/* The cached rule at an address; 0 if there is none. */
static __always_inline u64 recall_rule(const struct scratch *scr, u64 at)
{
	u64 place = place_of(scr, at), rule;
	struct cached_rule *cached = cached_at(place);

	if (!cached)
		return 0;
	rule = cached->rule;
	return cached->check == check_of(place, rule) ? rule : 0;
}

static __always_inline void remember_rule(const struct scratch *scr, u64 at, u64 rule)
{
	u64 place = place_of(scr, at);
	struct cached_rule *cached = cached_at(place);

	if (!cached)
		return;
	cached->rule = rule;
	cached->check = check_of(place, rule);
}

/* 1 if a < b, else 0, without a branch. Both must be below 2^63. */
static __always_inline u64 less(u64 a, u64 b)
{
	u64 difference = a - b;

	/* Otherwise clang makes a branch of it, and the verifier a path for each way. */
	asm volatile("" : "+r"(difference));
	return difference >> 63;
}

/*
 * A step of a search. Hides from clang which bits the position can have; otherwise it adds by `|`, for which
 * verifiers up to Linux 6.9 keep no bounds ("bpf/verifier: improve XOR and OR range computation").
 */
static __always_inline u64 step_forward(u64 at, u64 by)
{
	at += by;
	asm volatile("" : "+r"(at));
	return at;
}

/* Key in `mappings` of the bank that this walk uses. */
static __always_inline u32 mappings_of(const struct scratch *scr)
{
	return scr->slot * 2 + (scr->epoch & 1);
}

/* Index of the mapping that holds an address, or -1. `which` comes from mappings_of. */
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

/* The rule at an address of an object; 0 if there is none. Rules of full tables have bit 63 set. */
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

/* Set map_* to the mapping of `at`. Returns 0 if it is not known as code. */
static __always_inline int take_mapping(struct scratch *scr, u64 at)
{
	u32 which = mappings_of(scr);
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

#if HAS_UNWIND_TABLES

/* Registers of a thread that a signal interrupted. Source: struct rt_sigframe, struct sigcontext (x86-64). */
#define SIGFRAME_RBP 120
struct saved_registers {
	u64 rbp, rbx, rdx, rax, rcx, rsp, rip;
};

/* The frame is a signal handler's return trampoline: continue where the signal came. */
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
	/* Whether the frames above are certain depends on the table of the interrupted code. */
	if (take_mapping(scr, saved.rip) && scr->map_table != NL_NO_TABLE &&
	    is_full_table(scr->map_table))
		scr->found = NL_FOUND_EXACT;
	return 0;
}

/* Go to the caller, whose canonical frame address is `cfa`. */
static __always_inline int step_to_cfa(struct scratch *scr, u64 rule, u64 cfa)
{
	s64 rbp_offset = (__s16)(rule >> 16);
	u32 rbp_rule = (rule >> 8) & 0xff;
	u64 at;

	if (cfa <= scr->sp || cfa - scr->sp > MAX_FRAME_BYTES)
		return end_walk(scr, NL_END_BAD_SP);
	if (read_two(scr, cfa - 16))
		return end_walk(scr, NL_END_READ);
	scr->pc = scr->two[1];
	if (rbp_rule == NL_RBP_AT_CFA && rbp_offset == -16) {
		/* rbp is next to the return address. */
		scr->fp = scr->two[0];
	} else if (rbp_rule != NL_RBP_SAME) {
		at = (rbp_rule == NL_RBP_AT_CFA ? cfa : scr->fp) + rbp_offset;
		if (read_two(scr, at))
			return end_walk(scr, NL_END_READ);
		scr->fp = scr->two[0];
	}
	if (scr->n_replaced) {
#pragma unroll
		for (int i = 0; i < NL_REPLACED_RETURNS; i++)
			if (cfa - 8 == scr->replaced[i].at)
				scr->pc = scr->replaced[i].address;
	}
	scr->sp = cfa;
	return 0;
}

/* A stub of the procedure linkage table: it has pushed one or two words, depending on the offset in its 16 bytes. */
static __always_inline int step_plt(struct scratch *scr, u64 rule, u64 pc)
{
	u64 cfa = scr->sp + 8 + ((pc & 15) >= rule >> 32 ? 8 : 0);

	if (bpf_probe_read_user(&scr->pc, sizeof(u64), (void *)(cfa - 8)))
		return end_walk(scr, NL_END_READ);
	scr->sp = cfa;
	return 0;
}

/*
 * runtime.asmcgocall of Go. C code runs on the stack of the thread, the caller is on that of a goroutine. The rule says
 * where two words are: how deep the caller's stack is, and the goroutine, whose second word is the end of its stack.
 * Without a goroutine the thread was on its own stack already, and the first word is the stack pointer.
 */
static __always_inline int step_go(struct scratch *scr, u64 rule)
{
	u64 cfa, end;

	if (read_two(scr, scr->sp + (rule >> 32)))
		return end_walk(scr, NL_END_READ);
	cfa = scr->two[0];
	if (scr->two[1]) {
		if (bpf_probe_read_user(&end, sizeof(end), (void *)(scr->two[1] + 8)))
			return end_walk(scr, NL_END_READ);
		cfa = end - cfa;
	}
	if (bpf_probe_read_user(&scr->pc, sizeof(u64), (void *)cfa))
		return end_walk(scr, NL_END_READ);
	scr->sp = cfa + 8;
	return 0;
}

/* Code without a table: use the frame pointer, if it looks like one. */
static __always_inline int step_guess(struct scratch *scr, int is_mapped)
{
	u64 fp = scr->fp, *frame = scr->two;
	u32 end = is_mapped ? NL_END_NO_TABLE : NL_END_NO_MAPPING;

	if (fp & 7 || fp < scr->sp || fp - scr->sp > MAX_GUESS_BYTES)
		return end_walk(scr, end);
	if (bpf_probe_read_user(frame, sizeof(scr->two), (void *)fp))
		return end_walk(scr, end);
	if (!frame[1] || find_mapping(mappings_of(scr), frame[1] - 1) < 0 ||
	    !follows_call(frame[1]))
		return end_walk(scr, end);
	scr->fp = frame[0];
	scr->pc = frame[1];
	scr->sp = fp + 16;
	scr->found = NL_FOUND_GUESS;
	return 0;
}

/* Go one native frame up: push the frame at pc and find its caller. Returns 1 when the walk has ended. */
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
	if (rule & 0xff)
		remember_rule(scr, at, rule);
	if (!(rule & 0xff) && !exact && !follows_call(pc)) {
		/* Not a return address: the trampoline of makecontext, or a root that code has made up. */
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
	case NL_RULE_GO:
		return step_go(scr, rule);
	default:
		return end_walk(scr, NL_END_RULE);
	}
}

/*
 * Fast path of step_native, for ordinary rules in the cache: nearly all frames. Returns 0 when the walk goes on, -1
 * when it has ended, 1 when nothing was done and step_native must be called.
 */
static __always_inline int step_known(struct scratch *scr)
{
	u64 pc = scr->pc, fp = scr->fp, rule, cfa, caller;
	u32 kind, rbp_rule;
	s64 rbp_offset;

	if (is_managed(scr, pc))
		return step_known_runtime(scr);
	if (scr->exact || scr->n_replaced)
		return 1;
	rule = recall_rule(scr, pc - 1);
	kind = rule & 0xff;
	if (kind == NL_RULE_ROOT) {
		push_frame(scr, pc, 0);
		return -end_walk(scr, NL_END_ROOT);
	}
	if (kind != NL_RULE_RSP && kind != NL_RULE_RBP)
		return 1;
	rbp_rule = (rule >> 8) & 0xff;
	rbp_offset = (__s16)(rule >> 16);
	if (rbp_rule != NL_RBP_SAME && (rbp_rule != NL_RBP_AT_CFA || rbp_offset & 7))
		return 1;
	cfa = (kind == NL_RULE_RSP ? scr->sp : fp) + (s32)(rule >> 32);
	if (cfa <= scr->sp || cfa - scr->sp > MAX_FRAME_BYTES || read_two(scr, cfa - 16))
		return 1;
	caller = scr->two[1];
	if (rbp_rule == NL_RBP_AT_CFA) {
		if (rbp_offset != -16 && read_two(scr, cfa + rbp_offset))
			return 1;
		fp = scr->two[0];
	}
	push_frame(scr, pc, 0);
	scr->found = NL_FOUND_EXACT;
	scr->pc = caller;
	scr->sp = cfa;
	scr->fp = fp;
	return 0;
}

/* Go one frame up, native or managed. Returns 1 when the walk has ended. */
__noinline int step(u32 index)
{
	struct scratch *scr = bpf_map_lookup_elem(&scratch, &index);

	if (!scr)
		return 1;
	if (is_managed(scr, scr->pc) ? !step_runtime(index) : !step_native(index))
		return 0;
	if (scr->end == NL_END_ROOT)
		return 1;
	return resume_runtime(index, scr->end);
}
#else
/* There are tables for x86-64 only: other machines walk by frame pointers. */
static __always_inline int step_known(struct scratch *scr)
{
	(void)scr;
	return 1;
}

__noinline int step(u32 index)
{
	struct scratch *scr = bpf_map_lookup_elem(&scratch, &index);

	return scr ? end_walk(scr, NL_END_NO_TABLE) : 1;
}
#endif

__noinline int walk_some(u32 index)
{
	struct scratch *scr = bpf_map_lookup_elem(&scratch, &index);

	if (!scr)
		return 1;
	for (u32 i = 0; i < NL_STEPS; i++) {
		int result = step_known(scr);

		if (result < 0 || (result && step(index)))
			return 1;
	}
	return 0;
}

/* All frames after those of the first round. */
__noinline int walk_on(u32 index)
{
	struct scratch *scr;

	asm volatile("" ::"r"(index));
	for (u32 i = 1; i < NL_ROUNDS; i++)
		if (walk_some(index))
			return 0;
	scr = bpf_map_lookup_elem(&scratch, &index);
	if (scr)
		scr->end = NL_END_STEPS;
	return 0;
}

/* Most stacks take one round, and a call costs as much as half a frame. */
static __always_inline void walk_tables(u32 index)
{
	if (!walk_some(index))
		walk_on(index);
}

#endif /* NATIVELEAK_UNWIND_BPF_H */
