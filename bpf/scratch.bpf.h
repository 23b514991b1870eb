/* SPDX-License-Identifier: GPL-2.0 */
/* State of a walk, and the frames it has found. */
#ifndef NATIVELEAK_SCRATCH_BPF_H
#define NATIVELEAK_SCRATCH_BPF_H

#include "common.bpf.h"
#include "hotspot_state.bpf.h"
#include "nativeleak.h"

/* Most bytes that a guessed frame pointer may lead upwards. Thread stacks are 8 MiB by default. */
#define MAX_GUESS_BYTES (1 << 20)

/* Words among which a return address is looked for. */
#define NL_SEARCH_WORDS 32

/* Words of the stack that are read at once. */
#define NL_WINDOW_WORDS 128
/* Where a window is of which nothing has been read. Shallow: half of it is read the first time, which mostly is all. */
#define NL_WINDOW_SHALLOW 1
#define NL_WINDOW_DEEP 2
/* Return addresses that return probes have replaced, at most, in one stack that is walked. */
#define NL_REPLACED_RETURNS 8

/* Where on the stack a return address stood, and the address. */
struct replaced_return {
	u64 at;
	u64 address;
};

/* State of one walk. */
struct scratch {
	u64 busy;
	u32 index; /* its own */
	u32 slot;
	u32 epoch;
	u32 pad;
	u64 pc; /* where the next frame is */
	u64 sp;
	u64 fp;
	u64 hash;
	u32 found; /* enum nl_found of the next frame */
	u32 exact; /* pc is an interrupted instruction, not a return address */
	u32 end; /* enum nl_end, once the walk has ended */
	u32 depth;
	/* The mapping of the last frame: the next is often in it. */
	u64 map_start;
	u64 map_end;
	u64 map_bias;
	u32 map_table;
	u32 check;
	u32 n;
	u32 pad4;
	/* Where return probes, ours or another's, have put the kernel's trampoline. */
	struct replaced_return replaced[NL_REPLACED_RETURNS];
	u32 n_replaced;
	u32 pad3;
	struct hotspot_walk hotspot;
	/* Code of the target's runtime; no bytes if it has none that is walked. */
	u64 managed_low;
	u64 managed_bytes;
	/* A part of the stack, where it is, and how long; in between of words, as below: nothing has been read yet. */
	u64 window_at;
	u64 window_bytes;
	u64 window[NL_WINDOW_WORDS];
	u64 two[2]; /* what read_two has read */
	struct nl_frame frames[NL_MAX_FRAMES];
	struct hotspot_code hotspot_codes[NL_HOTSPOT_CODES]; /* kept from walk to walk */
};

/* cpu * NL_SCRATCH_PER_CPU + level -> buffer of one walk. Sized by the loader. */
NL_MAP(scratch, ARRAY, u32, struct scratch, NL_SCRATCH_PER_CPU, 0);

_Static_assert(sizeof(struct scratch) == 19768, "scratch");

static __always_inline void push_frame(struct scratch *scr, u64 address, u64 extra)
{
	u32 n = scr->n, head = scr->depth - scr->depth / 2, tail = scr->depth / 2;
	u32 at = n;

	/* Both ends are kept: what comes after the first half goes round in the second. */
	if (n >= head && tail)
		at = head + (n - head) % tail;
	/* A broken walk pushes anything: what is above a user address must not say how it was found. */
	address = (address & ((1ULL << 56) - 1)) | (u64)scr->found << 56;
	/* clang may know the bound and drop the mask that the verifier needs. */
	asm volatile("" : "+r"(at));
	at &= NL_MAX_FRAMES - 1;
	scr->frames[at].address = address;
	scr->frames[at].extra = extra;
	scr->n = n + 1;
	scr->hash = (scr->hash ^ address ^ (extra << 7)) * NL_HASH_FACTOR;
	scr->hash ^= scr->hash >> 32;
	scr->check = scr->check * 31 + (u32)(address ^ (address >> 32) ^ extra);
}

/* Read the part of the stack that begins at `at`. Returns an error where not all of it is in memory: none is read then. */
static __always_inline int read_window(struct scratch *scr, u64 at)
{
	/* No branch: the verifier would follow both ways. */
	u64 bytes = sizeof(scr->window) -
		    sizeof(scr->window) / 2 * (scr->window_at & NL_WINDOW_SHALLOW);

	/* What cannot be read leaves zeros. */
	scr->window_at = NL_WINDOW_DEEP;
	if (at & 7 || bpf_probe_read_user(scr->window, bytes, (void *)at))
		return 1;
	scr->window_at = at;
	scr->window_bytes = bytes;
	return 0;
}

/*
 * Two words that lie side by side on the stack, into scr->two: not onto our own stack, of which all functions of a walk
 * together have 512 bytes. The thread that is walked is the one that runs, so what was read once stays as it is.
 * Returns an error where they cannot be read.
 */
static __always_inline int read_two(struct scratch *scr, u64 at)
{
	u64 offset = at - scr->window_at;

	if (offset > scr->window_bytes - 16 || offset & 7) {
		/* The end of the stack is near, or what is called a stack is none. */
		if (read_window(scr, at))
			return bpf_probe_read_user(scr->two, sizeof(scr->two), (void *)at);
		offset = 0;
	}
	offset >>= 3;
	/* As in push_frame: the verifier needs the mask. */
	asm volatile("" : "+r"(offset));
	scr->two[0] = scr->window[offset & (NL_WINDOW_WORDS - 1)];
	scr->two[1] = scr->window[(offset + 1) & (NL_WINDOW_WORDS - 1)];
	return 0;
}

/*
 * Where in scr->window the words from `at` on are, `n` of them for certain; an error where they cannot be read. The
 * verifier wants the place masked.
 */
static __always_inline int read_words(struct scratch *scr, u64 at, u32 n, u64 *place)
{
	u64 offset = at - scr->window_at;

	*place = offset >> 3;
	if (offset <= scr->window_bytes - 8 * n && !(offset & 7))
		return 0;
	*place = 0;
	if (!read_window(scr, at))
		return 0;
	/* The end of the stack is near. */
	return bpf_probe_read_user(scr->window, 8 * n, (void *)at);
}

/* A word of the window. As in push_frame: the verifier needs the mask. */
static __always_inline u64 window_word(const struct scratch *scr, u64 place)
{
	asm volatile("" : "+r"(place));
	return scr->window[place & (NL_WINDOW_WORDS - 1)];
}

/* Clear what runtimes keep of one walk. */
static __always_inline void reset_runtime_state(struct scratch *scr)
{
	scr->hotspot.has_anchor = 0;
}

static __always_inline int end_walk(struct scratch *scr, u32 end)
{
	scr->end = end;
	return 1;
}

#endif /* NATIVELEAK_SCRATCH_BPF_H */
