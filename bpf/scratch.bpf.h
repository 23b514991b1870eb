/* SPDX-License-Identifier: GPL-2.0 */
/* Scratch buffers: the state of a walk and its frames. */
#ifndef NATIVELEAK_SCRATCH_BPF_H
#define NATIVELEAK_SCRATCH_BPF_H

#include "common.bpf.h"
#include "hotspot_state.bpf.h"
#include "nativeleak.h"

/* Most bytes that a guessed frame pointer may lead upwards. Thread stacks are 8 MiB by default. */
#define MAX_GUESS_BYTES (1 << 20)

/* Words that are searched for a return address. */
#define NL_SEARCH_WORDS 32

/* Words of the stack that one read copies. */
#define NL_WINDOW_WORDS 128
/* window_at before the first read. Shallow: the first read copies half a window, which usually suffices. */
#define NL_WINDOW_SHALLOW 1
#define NL_WINDOW_DEEP 2
/* Most return addresses that return probes have replaced in one stack. */
#define NL_REPLACED_RETURNS 8

/* A replaced return address: its place on the stack, and the original. */
struct replaced_return {
	u64 at;
	u64 address;
};

/* State of one walk. */
struct scratch {
	u64 busy;
	u32 index; /* index of this buffer */
	u32 slot;
	u32 epoch;
	u32 pad;
	u64 pc; /* pc, sp and fp of the next frame */
	u64 sp;
	u64 fp;
	u64 hash;
	u32 found; /* enum nl_found of the next frame */
	u32 exact; /* pc is an interrupted instruction, not a return address */
	u32 end; /* enum nl_end, when the walk has ended */
	u32 depth;
	/* Mapping of the last frame; the next is often in the same. */
	u64 map_start;
	u64 map_end;
	u64 map_bias;
	u32 map_table;
	u32 check;
	u32 n;
	u32 pad4;
	/* Return addresses that return probes, ours or others, have replaced. */
	struct replaced_return replaced[NL_REPLACED_RETURNS];
	u32 n_replaced;
	u32 pad3;
	struct hotspot_walk hotspot;
	/* Code of the target's runtime; no bytes if it has none. */
	u64 managed_low;
	u64 managed_bytes;
	/*
	 * A copy of a part of the stack, its address and length. An address that is not a multiple of 8: nothing has
	 * been read.
	 */
	u64 window_at;
	u64 window_bytes;
	u64 window[NL_WINDOW_WORDS];
	u64 two[2]; /* result of read_two */
	struct nl_frame frames[NL_MAX_FRAMES];
	struct hotspot_code hotspot_codes[NL_HOTSPOT_CODES]; /* kept from walk to walk */
};

/*
 * cpu * NL_SCRATCH_PER_CPU + level -> buffer of one walk. Sized by the loader; nothing is deleted. All in use:
 * NL_NO_SCRATCH counts.
 */
NL_MAP(scratch, ARRAY, u32, struct scratch, NL_SCRATCH_PER_CPU, 0);

_Static_assert(sizeof(struct scratch) == 19768, "scratch");

static __always_inline void push_frame(struct scratch *scr, u64 address, u64 extra)
{
	u32 n = scr->n, head = scr->depth - scr->depth / 2, tail = scr->depth / 2;
	u32 at = n;

	/* Both ends are kept: the second half is a ring. */
	if (n >= head && tail)
		at = head + (n - head) % tail;
	/* Only address bits: a broken walk may push anything, and bits 56-63 say how the frame was found. */
	address = (address & ((1ULL << 56) - 1)) | (u64)scr->found << 56;
	/* Keeps the mask, which the verifier needs and clang may drop. */
	asm volatile("" : "+r"(at));
	at &= NL_MAX_FRAMES - 1;
	scr->frames[at].address = address;
	scr->frames[at].extra = extra;
	scr->n = n + 1;
	scr->hash = (scr->hash ^ address ^ (extra << 7)) * NL_HASH_FACTOR;
	scr->hash ^= scr->hash >> 32;
	scr->check = scr->check * 31 + (u32)(address ^ (address >> 32) ^ extra);
}

/*
 * Read the stack from `at` on into the window. Returns an error if not all of it is in memory; the window is then
 * empty.
 */
static __always_inline int read_window(struct scratch *scr, u64 at)
{
	/* Without a branch: the verifier would follow both ways. */
	u64 bytes = sizeof(scr->window) -
		    sizeof(scr->window) / 2 * (scr->window_at & NL_WINDOW_SHALLOW);

	/* A failed read leaves zeros. */
	scr->window_at = NL_WINDOW_DEEP;
	if (at & 7 || bpf_probe_read_user(scr->window, bytes, (void *)at))
		return 1;
	scr->window_at = at;
	scr->window_bytes = bytes;
	return 0;
}

/*
 * Read two adjacent words of the stack into scr->two. Not onto the BPF stack, of which all functions of a walk
 * together have 512 bytes. Returns an error if they cannot be read. The walked thread is the running one, so the
 * window stays valid.
 */
static __always_inline int read_two(struct scratch *scr, u64 at)
{
	u64 offset = at - scr->window_at;

	if (offset > scr->window_bytes - 16 || offset & 7) {
		/* Near the end of the stack, or not a stack at all. */
		if (read_window(scr, at))
			return bpf_probe_read_user(scr->two, sizeof(scr->two), (void *)at);
		offset = 0;
	}
	offset >>= 3;
	/* Keeps the mask, as in push_frame. */
	asm volatile("" : "+r"(offset));
	scr->two[0] = scr->window[offset & (NL_WINDOW_WORDS - 1)];
	scr->two[1] = scr->window[(offset + 1) & (NL_WINDOW_WORDS - 1)];
	return 0;
}

/*
 * Find `n` words from `at` on in the window, reading it if needed; `place` is where. Returns an error if they cannot
 * be read. The caller masks the place for the verifier.
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
	/* Near the end of the stack. */
	return bpf_probe_read_user(scr->window, 8 * n, (void *)at);
}

/* A word of the window. The mask is for the verifier, as in push_frame. */
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
