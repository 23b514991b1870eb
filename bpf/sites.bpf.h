/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Call sites and their totals. A site is a thread and a stack. User space reads the totals, so its cost follows the
 * number of sites, not the number of allocations.
 */
#ifndef NATIVELEAK_SITES_BPF_H
#define NATIVELEAK_SITES_BPF_H

#include "common.bpf.h"
#include "counters.bpf.h"
#include "nativeleak.h"
#include "scratch.bpf.h"
#include "stack.bpf.h"

/*
 * Direct-mapped cache of sites, in three arrays. An entry is free while its word in site_cache_used is 0. BPF code
 * claims that word first and then writes the key; user space clears key and totals first and frees the word last. A
 * free entry has no stack in its key. Element 0 is never used; it is the only one where the cache is off.
 */
NL_MAP(site_cache_used, ARRAY, u32, u64, 1 + (1 << NL_SITE_CACHE_BITS), 0);

NL_MAP(site_cache_keys, ARRAY, u32, struct nl_site_key, 1 + (1 << NL_SITE_CACHE_BITS), 0);

NL_MAP(site_cache, ARRAY, u32, struct nl_site, 1 + (1 << NL_SITE_CACHE_BITS), 0);

/*
 * Site -> totals, for sites whose cache entry is taken by another. Deleted by user space when nothing is outstanding,
 * and the thread is gone or the map nearly full (see on_retire). Full: the block is booked on the site {0, 0, slot}, which user space adds at the start.
 */
NL_MAP(sites, HASH, struct nl_site_key, struct nl_site, 1 << 16, BPF_F_NO_PREALLOC);

/* [0]: sites whose `check` on_retire changes. Written by user space before it runs that program. */
NL_MAP(marked_sites, ARRAY, u32, struct nl_marked_sites, 1, 0);

/* [0]: all zero. The value of a new site, which is too large for the BPF stack. */
NL_MAP(empty_site, ARRAY, u32, struct nl_site, 1, 0);

/* The birth slice of a block. */
static __always_inline struct nl_slice *slice_of(struct nl_site *site, u32 born, u32 generation)
{
	u64 index = (u64)born >> ((NL_SLICE_SHIFT + generation) & 31);

	if (index >= NL_SLICES)
		index = NL_SLICES - 1;
	return &site->slices[generation & 1][index];
}

static __always_inline void book_allocated(struct nl_site *site, const struct nl_live *block,
					   u32 generation)
{
	struct nl_slice *slice = slice_of(site, block->born, generation);

	__sync_fetch_and_add(&site->allocated_bytes, block->bytes);
	__sync_fetch_and_add(&site->allocated_count, block->count);
	__sync_fetch_and_add(&slice->bytes, block->bytes);
	__sync_fetch_and_add(&slice->count, block->count);
}

/* Undo book_allocated: the live set is full. */
static __always_inline void unbook_allocated(struct nl_site *site, const struct nl_live *block,
					     u32 generation)
{
	struct nl_slice *slice = slice_of(site, block->born, generation);

	__sync_fetch_and_add(&site->allocated_bytes, -block->bytes);
	__sync_fetch_and_add(&site->allocated_count, -(u64)block->count);
	__sync_fetch_and_add(&slice->bytes, -block->bytes);
	__sync_fetch_and_add(&slice->count, -(u64)block->count);
}

/* Cache entry of a site. engines/bpf/site_store.py computes the same. */
static __always_inline u32 site_cache_index(const struct nl_site_key *key)
{
	u64 word = key->stack ^ (u64)key->thread << 32 ^ key->slot;

	return 1 + (word * NL_HASH_FACTOR >> (64 - NL_SITE_CACHE_BITS));
}

/* Totals of a site; 0 if it is new. */
static __always_inline struct nl_site *find_site(const struct nl_site_key *key)
{
	u32 index = site_cache_index(key);
	struct nl_site_key *near = bpf_map_lookup_elem(&site_cache_keys, &index);

	if (near && near->stack == key->stack && near->thread == key->thread &&
	    near->slot == key->slot && key->stack)
		return bpf_map_lookup_elem(&site_cache, &index);
	return bpf_map_lookup_elem(&sites, key);
}

/* An entry for a new site of the running thread, all zero; 0 when the map is full. */
static __always_inline struct nl_site *new_site(const struct nl_site_key *key)
{
	u32 index = site_cache_index(key), zero = 0;
	u64 *state = bpf_map_lookup_elem(&site_cache_used, &index);
	struct nl_site_key *near = bpf_map_lookup_elem(&site_cache_keys, &index);
	struct nl_site *empty;

	if (state && near && !*(volatile u64 *)state && !compare_exchange(state, 0, 1)) {
		near->thread = key->thread;
		near->slot = key->slot;
		exchange(&near->stack, key->stack);
		return bpf_map_lookup_elem(&site_cache, &index);
	}
	empty = bpf_map_lookup_elem(&empty_site, &zero);
	if (!empty || bpf_map_update_elem(&sites, key, empty, BPF_NOEXIST))
		return 0;
	return bpf_map_lookup_elem(&sites, key);
}

static __always_inline void book_freed(const struct nl_live *block, u32 slot, u32 generation)
{
	struct nl_site_key key = { .stack = block->stack, .thread = block->thread, .slot = slot };
	struct nl_site *site = find_site(&key);
	struct nl_slice *slice;

	if (!site)
		return;
	slice = slice_of(site, block->born, generation);
	__sync_fetch_and_add(&site->freed_bytes, block->bytes);
	__sync_fetch_and_add(&site->freed_count, block->count);
	__sync_fetch_and_add(&slice->bytes, -block->bytes);
	__sync_fetch_and_add(&slice->count, -(u64)block->count);
}

/* Add a new site with its stack; the site for all others when the map is full. */
static __noinline struct nl_site *make_site(struct nl_site_key *key, struct scratch *scr)
{
	struct nl_site *site = new_site(key);

	if (site) {
		site->check = scr->check;
		store_stack(scr, key->stack);
		return site;
	}
	count(NL_SITES_FULL);
	key->stack = 0;
	key->thread = 0;
	return bpf_map_lookup_elem(&sites, key);
}

/*
 * Totals of a thread and stack where the site has another second hash: it is being retired, it has just been deleted,
 * or two stacks have the same key.
 */
static __noinline struct nl_site *other_site(struct nl_site_key *key, struct scratch *scr)
{
	struct nl_site *site = find_site(key);

	if (!site)
		return make_site(key, scr);
	if (site->check == NL_RETIRING) {
		key->thread |= NL_TWIN;
		site = find_site(key);
		return site ? site : make_site(key, scr);
	}
	if (site->check != scr->check)
		count(NL_STACK_COLLISIONS);
	return site;
}

/* Totals of a thread and stack; makes the site if it is new. */
static __always_inline struct nl_site *site_of(struct nl_site_key *key, struct scratch *scr)
{
	struct nl_site *site = find_site(key);

	if (!site)
		return make_site(key, scr);
	if (site->check != scr->check)
		return other_site(key, scr);
	return site;
}

/*
 * Mark sites that user space wants to delete, or take the marks back. User space runs this program; it is attached to
 * nothing. A site that is marked gets no more blocks. When all programs that were running at that moment have ended,
 * its totals stand still, and user space deletes it if nothing is outstanding.
 */
static __always_inline int mark_sites(void)
{
	u32 zero = 0;
	struct nl_marked_sites *marked = bpf_map_lookup_elem(&marked_sites, &zero);

	if (!marked)
		return 0;
	for (u32 i = 0; i < NL_RETIRING_SITES; i++) {
		struct nl_site_key key;
		struct nl_site *site;

		if (i >= marked->n)
			break;
		key = marked->sites[i].key;
		site = find_site(&key);
		if (site)
			site->check = marked->sites[i].check;
	}
	return 0;
}

#endif /* NATIVELEAK_SITES_BPF_H */
