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

/* Words that are looked up together: the memory that one needs is fetched while others are looked up. */
#define BATCH 64
/* Blocks that are tried one by one before the search by halves. */
#define NEAR 6

struct hits {
	int64_t n;
	uint64_t value[BATCH];
	int64_t at[BATCH]; /* places in the run */
	int64_t block[BATCH]; /* out: -1 for none */
};

/* The span of a value; -1 for none. */
static int64_t span_of(const struct nl_blocks *blocks, uint64_t value, int64_t *span_hint)
{
	int64_t span = *span_hint;

	if (span < blocks->n_spans && value >= blocks->span_start[span] &&
	    value < blocks->span_end[span])
		return span;

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
	return *span_hint = low;
}

/* Place in first_block of the page of a value; -1 for none. */
static int64_t page_of(const struct nl_blocks *blocks, uint64_t value, int64_t *span_hint)
{
	int64_t span = span_of(blocks, value, span_hint);

	if (span < 0)
		return -1;
	return blocks->page_base[span] +
	       (int64_t)((value - blocks->span_start[span]) >> PAGE_SHIFT);
}

/* The block of low to high that is likely to hold a value, if all of a page are equally large. */
static int64_t guess(int64_t low, int64_t high, uint64_t value)
{
	int64_t in_page = (int64_t)(value & ((1u << PAGE_SHIFT) - 1));

	return low + ((high - low) * in_page >> PAGE_SHIFT);
}

/* The block that holds a value; -1 for none. Those that begin in its page are low to high. */
static int64_t block_of(const struct nl_blocks *blocks, int64_t low, int64_t high, uint64_t value)
{
	if (low < high) {
		int64_t near = guess(low, high, value);

		/* Invariant of both searches: blocks below low begin at the value or before it, those from high on behind. */
		for (int i = 0; i < NEAR && low < high; i++) {
			if (blocks->start[near] <= value) {
				low = ++near;
				if (near < high && blocks->start[near] > value)
					high = near;
			} else {
				high = near;
				if (--near >= low && blocks->start[near] <= value)
					low = near + 1;
			}
		}
	}
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

static int64_t look(const struct nl_blocks *blocks, uint64_t value, int64_t *span_hint)
{
	int64_t page = page_of(blocks, value, span_hint);

	if (page < 0)
		return -1;
	return block_of(blocks, blocks->first_block[page], blocks->first_block[page + 1], value);
}

/* Looks up all words of a batch. */
static void look_up(const struct nl_blocks *blocks, struct hits *hits, int64_t *span_hint)
{
	for (int64_t i = 0; i < hits->n; i++) {
		hits->block[i] = page_of(blocks, hits->value[i], span_hint);
		if (hits->block[i] >= 0)
			__builtin_prefetch(&blocks->first_block[hits->block[i]]);
	}
	for (int64_t i = 0; i < hits->n; i++) {
		int64_t page = hits->block[i];

		if (page < 0)
			continue;

		int64_t near = guess(blocks->first_block[page], blocks->first_block[page + 1],
				     hits->value[i]);

		__builtin_prefetch(&blocks->start[near ? near - 1 : 0]);
		__builtin_prefetch(&blocks->end[near ? near - 1 : 0]);
	}
	for (int64_t i = 0; i < hits->n; i++) {
		int64_t page = hits->block[i];

		if (page >= 0)
			hits->block[i] = block_of(blocks, blocks->first_block[page],
						  blocks->first_block[page + 1], hits->value[i]);
	}
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

/* Collects words of a run from *at on that may point into blocks, until the batch is full or the run ends. */
static void collect(const struct nl_blocks *blocks, const uint8_t *data, int64_t last, int64_t step,
		    int64_t *at, struct hits *hits)
{
	uint64_t low = blocks->span_start[0], size = blocks->span_end[blocks->n_spans - 1] - low;
	int64_t place = *at, n = 0;

	for (; place <= last && n < BATCH; place += step) {
		uint64_t value = load(data + place) & ADDRESS_MASK;

		if (value - low >= size)
			continue;
		hits->value[n] = value;
		hits->at[n] = place;
		n++;
	}
	hits->n = n;
	*at = place;
}

/*
 * Pointers from memory that no block has: where each stands, its block, its flags.
 * Returns their number; the arrays have room for one at each place of a pointer.
 */
int64_t nl_roots(const struct nl_blocks *blocks, const struct nl_runs *runs, uint64_t *place,
		 uint32_t *target, uint8_t *flags)
{
	int64_t n = 0, hint = 0;
	struct hits hits;

	if (!blocks->n_spans)
		return 0;
	for (int64_t run = 0; run < runs->n_runs; run++) {
		const uint8_t *data = runs->data + runs->offset[run];
		int64_t last = runs->n_bytes[run] - 8;

		for (int64_t at = 0; at <= last;) {
			collect(blocks, data, last, runs->step, &at, &hits);
			look_up(blocks, &hits, &hint);
			for (int64_t i = 0; i < hits.n; i++) {
				int64_t block = hits.block[i];
				uint64_t value = hits.value[i];

				if (block < 0)
					continue;
				place[n] = runs->address[run] + (uint64_t)hits.at[i];
				target[n] = (uint32_t)block;
				flags[n] = (value != blocks->start[block] ? INTERIOR : 0) |
					   (is_link(blocks, block, value) ? LINK : 0);
				n++;
			}
		}
	}
	return n;
}

/*
 * Pointers from block to block, without those of a block into itself. Runs ascend. Returns the number of edges; the
 * arrays have room for one at each place of a pointer. seen: a word a block, all ones at first, kept from call to call:
 * the last source of an edge to it, so that a block that points at another one many times has one edge.
 */
int64_t nl_edges(const struct nl_blocks *blocks, const struct nl_runs *runs, uint32_t *source,
		 uint32_t *target, uint32_t *seen)
{
	int64_t n = 0, hint = 0, source_hint = 0;
	struct hits hits;

	if (!blocks->n_spans)
		return 0;
	for (int64_t run = 0; run < runs->n_runs; run++) {
		const uint8_t *data = runs->data + runs->offset[run];
		int64_t last = runs->n_bytes[run] - 8;
		int64_t from = -1;

		for (int64_t at = 0; at <= last;) {
			collect(blocks, data, last, runs->step, &at, &hits);
			look_up(blocks, &hits, &hint);
			for (int64_t i = 0; i < hits.n; i++)
				if (hits.block[i] >= 0)
					__builtin_prefetch(&seen[hits.block[i]], 1);
			for (int64_t i = 0; i < hits.n; i++) {
				int64_t block = hits.block[i];

				if (block < 0)
					continue;

				uint64_t address = runs->address[run] + (uint64_t)hits.at[i];

				if (from < 0 || address < blocks->start[from] ||
				    address >= blocks->end[from])
					from = look(blocks, address, &source_hint);
				if (from < 0 || from == block)
					continue;

				uint32_t link = is_link(blocks, block, hits.value[i]) ? LEFTOVER :
											0;

				if (seen[block] == ((uint32_t)from | link))
					continue;
				seen[block] = (uint32_t)from | link;
				source[n] = (uint32_t)from;
				target[n] = (uint32_t)block | link;
				n++;
			}
		}
	}
	return n;
}

/*
 * Where a walk of the graph stands. A walk ends early after max_blocks blocks or max_edges edges, so that the caller can
 * give back memory of a mapped file, and goes on with the next call. All zeros at first, n_found apart.
 */
struct nl_walk {
	int64_t max_blocks;
	int64_t max_edges;
	int64_t n_found; /* out: what nl_mark marked so far */
	int64_t next_root;
	int64_t head; /* of a queue; a stack has none */
	int64_t depth; /* of a stack; end of a queue */
	int64_t edge; /* next edge of the block under way */
	int64_t end; /* of its edges; no block is under way where edge is not below */
	int64_t block;
};

/* Edges of the block under way that this call may pass: up to the returned place. */
static int64_t last_edge(const struct nl_walk *walk, int64_t *n_edges)
{
	int64_t left = walk->end - walk->edge;

	if (left > *n_edges)
		left = *n_edges;
	*n_edges -= left;
	return walk->edge + left;
}

static void begin(struct nl_walk *walk, const int64_t *offset, uint32_t block)
{
	walk->block = block;
	walk->edge = offset[block];
	walk->end = offset[block + 1];
}

/*
 * Marks with 1 every block that is reached from roots; a block that has a mark already is not passed. Edges of block v
 * are targets[offset[v]] to targets[offset[v + 1]]. stack: room for one word a block. Returns 0 when it is done.
 */
int64_t nl_mark(const int64_t *offset, const uint32_t *targets, const uint32_t *roots,
		int64_t n_roots, int64_t follows_leftovers, uint8_t *marks, uint32_t *stack,
		struct nl_walk *walk)
{
	int64_t n_blocks = walk->max_blocks, n_edges = walk->max_edges;

	for (;;) {
		int64_t last = last_edge(walk, &n_edges);

		for (; walk->edge < last; walk->edge++) {
			uint32_t to = targets[walk->edge];

			if (to & LEFTOVER) {
				if (!follows_leftovers)
					continue;
				to &= ~LEFTOVER;
			}
			if (marks[to])
				continue;
			marks[to] = 1;
			stack[walk->depth++] = to;
			walk->n_found++;
		}
		if (walk->edge < walk->end)
			return 1;
		while (!walk->depth && walk->next_root < n_roots) {
			uint32_t root = roots[walk->next_root++];

			if (marks[root])
				continue;
			marks[root] = 1;
			stack[walk->depth++] = root;
			walk->n_found++;
		}
		if (!walk->depth)
			return 0;
		if (!n_blocks--)
			return 1;
		begin(walk, offset, stack[--walk->depth]);
	}
}

/*
 * The label of the root that is nearest to each block, the earlier root where two are as near; NONE at first.
 * Returns 0 when it is done.
 */
int64_t nl_owners(const int64_t *offset, const uint32_t *targets, const uint32_t *roots,
		  const uint32_t *labels, int64_t n_roots, uint32_t *owner, uint32_t *queue,
		  struct nl_walk *walk)
{
	int64_t n_blocks = walk->max_blocks, n_edges = walk->max_edges;

	for (; walk->next_root < n_roots; walk->next_root++) {
		uint32_t root = roots[walk->next_root];

		if (owner[root] != NONE)
			continue;
		owner[root] = labels[walk->next_root];
		queue[walk->depth++] = root;
	}
	for (;;) {
		int64_t last = last_edge(walk, &n_edges);

		for (; walk->edge < last; walk->edge++) {
			uint32_t to = targets[walk->edge] & ~LEFTOVER;

			if (owner[to] != NONE)
				continue;
			owner[to] = owner[walk->block];
			queue[walk->depth++] = to;
		}
		if (walk->edge < walk->end)
			return 1;
		if (walk->head == walk->depth)
			return 0;
		if (!n_blocks--)
			return 1;
		begin(walk, offset, queue[walk->head++]);
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

/*
 * The only label that reaches each block; SHARED where several do. NONE and zeros at first. Returns 0 when it is done.
 */
int64_t nl_exclusive(const int64_t *offset, const uint32_t *targets, const uint32_t *roots,
		     const uint32_t *labels, int64_t n_roots, uint32_t *only, uint32_t *stack,
		     uint8_t *is_queued, struct nl_walk *walk)
{
	int64_t n_blocks = walk->max_blocks, n_edges = walk->max_edges;

	for (; walk->next_root < n_roots; walk->next_root++)
		walk->depth = put(roots[walk->next_root], labels[walk->next_root], only, stack,
				  is_queued, walk->depth);
	for (;;) {
		int64_t last = last_edge(walk, &n_edges);

		/* The block's label may change on the way; then it is queued again. */
		for (; walk->edge < last; walk->edge++)
			walk->depth = put(targets[walk->edge] & ~LEFTOVER, only[walk->block], only,
					  stack, is_queued, walk->depth);
		if (walk->edge < walk->end)
			return 1;
		if (!walk->depth)
			return 0;
		if (!n_blocks--)
			return 1;
		begin(walk, offset, stack[--walk->depth]);
		is_queued[walk->block] = 0;
	}
}
