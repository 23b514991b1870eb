/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loops of nativeleak.holders that numpy is slow at: looking up words in a table of blocks, and walks of a graph.
 *
 * Freestanding: no library, no allocation, no global state. The caller owns every array and has checked every length.
 * Each function has a twin in tracer/nativeleak/holders/numpy_helper.py that gives the same result.
 */
#include <stdint.h>

#define NONE UINT32_MAX
#define SHARED (UINT32_MAX - 1)
/* Bit of a target in an edge: the pointer has the form of a link that a free list left behind. */
#define LEFTOVER 0x80000000u
/* Bits of a flag of a root. */
#define INTERIOR 1u
#define LINK 2u
#define ADDRESS_MASK ((1ull << 48) - 1)
#define PAGE_SHIFT 12

struct nl_blocks {
	int64_t n_spans;
	const uint64_t *span_start; /* whole pages, ascending, apart from each other */
	const uint64_t *span_end;
	const int64_t *page_base; /* place of a span's first page in first_block */
	const uint32_t *
		first_block; /* of each page and of the one behind a span: first block that starts there or later */
	const uint64_t *start; /* ascending */
	const uint64_t *end;
	int64_t n_blocks;
	uint64_t link_offset; /* 0: this allocator has no links */
};

struct nl_runs {
	const uint8_t *data;
	const uint64_t *address;
	const int64_t *offset; /* in data */
	const int64_t *n_bytes;
	int64_t n_runs;
	int64_t step; /* bytes between the places of pointers: 8 or 4 */
};

static int64_t look(const struct nl_blocks *blocks, uint64_t value, int64_t *span_hint)
{
	int64_t span = *span_hint;

	if (span >= blocks->n_spans || value < blocks->span_start[span] ||
	    value >= blocks->span_end[span]) {
		int64_t low = 0, high = blocks->n_spans;

		while (low < high) {
			int64_t middle = (low + high) >> 1;

			if (blocks->span_end[middle] <= value)
				low = middle + 1;
			else
				high = middle;
		}
		if (low >= blocks->n_spans || value < blocks->span_start[low])
			return -1;
		span = *span_hint = low;
	}

	int64_t page = blocks->page_base[span] +
		       (int64_t)((value - blocks->span_start[span]) >> PAGE_SHIFT);
	int64_t low = blocks->first_block[page], high = blocks->first_block[page + 1];

	while (low < high) {
		int64_t middle = (low + high) >> 1;

		if (blocks->start[middle] <= value)
			low = middle + 1;
		else
			high = middle;
	}
	low--;
	return low >= 0 && value < blocks->end[low] ? low : -1;
}

static uint64_t load(const uint8_t *at)
{
	uint64_t value;

	__builtin_memcpy(&value, at, sizeof(value));
	return value;
}

static int is_link(const struct nl_blocks *blocks, int64_t block, uint64_t value)
{
	return blocks->link_offset && value == blocks->end[block] - blocks->link_offset;
}

/*
 * Pointers from memory that no block has: where each stands, its block, its flags.
 * Returns their number; the arrays have room for one at each place of a pointer.
 */
int64_t nl_roots(const struct nl_blocks *blocks, const struct nl_runs *runs, uint64_t *place,
		 uint32_t *target, uint8_t *flags)
{
	int64_t n = 0, hint = 0;

	if (!blocks->n_spans)
		return 0;

	uint64_t low = blocks->span_start[0], size = blocks->span_end[blocks->n_spans - 1] - low;

	for (int64_t run = 0; run < runs->n_runs; run++) {
		const uint8_t *data = runs->data + runs->offset[run];
		int64_t last = runs->n_bytes[run] - 8;

		for (int64_t at = 0; at <= last; at += runs->step) {
			uint64_t value = load(data + at) & ADDRESS_MASK;

			if (value - low >= size)
				continue;

			int64_t block = look(blocks, value, &hint);

			if (block < 0)
				continue;
			place[n] = runs->address[run] + (uint64_t)at;
			target[n] = (uint32_t)block;
			flags[n] = (value != blocks->start[block] ? INTERIOR : 0) |
				   (is_link(blocks, block, value) ? LINK : 0);
			n++;
		}
	}
	return n;
}

/*
 * Pointers from block to block, without those of a block into itself. Runs ascend. Returns the number of edges; the
 * arrays have room for one at each place of a pointer. seen: 2^seen_bits words, all ones at first, which keep a block
 * that points at another one many times to one edge mostly.
 */
int64_t nl_edges(const struct nl_blocks *blocks, const struct nl_runs *runs, uint32_t *source,
		 uint32_t *target, uint64_t *seen, int64_t seen_bits)
{
	int64_t n = 0, hint = 0, source_hint = 0;

	if (!blocks->n_spans)
		return 0;

	uint64_t low = blocks->span_start[0], size = blocks->span_end[blocks->n_spans - 1] - low;

	for (int64_t run = 0; run < runs->n_runs; run++) {
		const uint8_t *data = runs->data + runs->offset[run];
		int64_t last = runs->n_bytes[run] - 8;
		int64_t from = -1;

		for (int64_t at = 0; at <= last; at += runs->step) {
			uint64_t value = load(data + at) & ADDRESS_MASK;

			if (value - low >= size)
				continue;

			int64_t block = look(blocks, value, &hint);

			if (block < 0)
				continue;

			uint64_t address = runs->address[run] + (uint64_t)at;

			if (from < 0 || address < blocks->start[from] ||
			    address >= blocks->end[from])
				from = look(blocks, address, &source_hint);
			if (from < 0 || from == block)
				continue;

			uint32_t to = (uint32_t)block |
				      (is_link(blocks, block, value) ? LEFTOVER : 0);
			uint64_t edge = (uint64_t)from << 32 | to;
			uint64_t slot = (to * 0x9E3779B97F4A7C15ull) >> (64 - seen_bits);

			if (seen[slot] == edge)
				continue;
			seen[slot] = edge;
			source[n] = (uint32_t)from;
			target[n] = to;
			n++;
		}
	}
	return n;
}

/*
 * Marks with 1 every block that is reached from roots; a block that has a mark already is not passed. Edges of block v
 * are targets[offset[v]] to targets[offset[v + 1]]. stack: room for one word a block. Returns the number of new marks.
 */
int64_t nl_mark(const int64_t *offset, const uint32_t *targets, const uint32_t *roots,
		int64_t n_roots, int64_t follows_leftovers, uint8_t *marks, uint32_t *stack)
{
	int64_t n = 0, depth = 0;

	for (int64_t i = 0; i < n_roots; i++) {
		if (marks[roots[i]])
			continue;
		marks[roots[i]] = 1;
		stack[depth++] = roots[i];
		n++;
		while (depth) {
			uint32_t block = stack[--depth];

			for (int64_t edge = offset[block]; edge < offset[block + 1]; edge++) {
				uint32_t to = targets[edge];

				if (to & LEFTOVER) {
					if (!follows_leftovers)
						continue;
					to &= ~LEFTOVER;
				}
				if (marks[to])
					continue;
				marks[to] = 1;
				stack[depth++] = to;
				n++;
			}
		}
	}
	return n;
}

/* The label of the root that is nearest to each block, the earlier root where two are as near; NONE at first. */
void nl_owners(const int64_t *offset, const uint32_t *targets, const uint32_t *roots,
	       const uint32_t *labels, int64_t n_roots, uint32_t *owner, uint32_t *queue)
{
	int64_t head = 0, tail = 0;

	for (int64_t i = 0; i < n_roots; i++) {
		if (owner[roots[i]] != NONE)
			continue;
		owner[roots[i]] = labels[i];
		queue[tail++] = roots[i];
	}
	while (head < tail) {
		uint32_t block = queue[head++];

		for (int64_t edge = offset[block]; edge < offset[block + 1]; edge++) {
			uint32_t to = targets[edge] & ~LEFTOVER;

			if (owner[to] != NONE)
				continue;
			owner[to] = owner[block];
			queue[tail++] = to;
		}
	}
}

static int64_t put(uint32_t block, uint32_t label, uint32_t *only, uint32_t *stack,
		   uint8_t *is_queued, int64_t depth)
{
	uint32_t now = only[block] == NONE ? label : only[block] == label ? label : SHARED;

	if (now == only[block])
		return depth;
	only[block] = now;
	if (!is_queued[block]) {
		is_queued[block] = 1;
		stack[depth++] = block;
	}
	return depth;
}

/* The only label that reaches each block; SHARED where several do. NONE and zeros at first. */
void nl_exclusive(const int64_t *offset, const uint32_t *targets, const uint32_t *roots,
		  const uint32_t *labels, int64_t n_roots, uint32_t *only, uint32_t *stack,
		  uint8_t *is_queued)
{
	int64_t depth = 0;

	for (int64_t i = 0; i < n_roots; i++)
		depth = put(roots[i], labels[i], only, stack, is_queued, depth);
	while (depth) {
		uint32_t block = stack[--depth];

		is_queued[block] = 0;
		for (int64_t edge = offset[block]; edge < offset[block + 1]; edge++)
			depth = put(targets[edge] & ~LEFTOVER, only[block], only, stack, is_queued,
				    depth);
	}
}
