/* SPDX-License-Identifier: GPL-2.0 */
/* The live set: blocks that are outstanding, by address. */
#ifndef NATIVELEAK_LIVE_BPF_H
#define NATIVELEAK_LIVE_BPF_H

#include "common.bpf.h"
#include "counters.bpf.h"
#include "nativeleak.h"
#include "sites.bpf.h"

/*
 * Most blocks are freed soon, so a direct-mapped cache comes first, in three arrays. An entry has the key of its
 * block (0: free, NL_LIVE_CACHE_BUSY: being written), the block, and how many keys of this entry overflowed into
 * `live` because it was taken. Element 0 is never used; it is the only one where the cache is off.
 */
NL_MAP(live_cache_keys, ARRAY, u32, u64, 1 + (1 << NL_LIVE_CACHE_BITS), 0);

NL_MAP(live_cache, ARRAY, u32, struct nl_live, 1 + (1 << NL_LIVE_CACHE_BITS), 0);

NL_MAP(live_overflow, ARRAY, u32, u32, 1 + (1 << NL_LIVE_CACHE_BITS), 0);

/*
 * address | slot << 56 -> block that overflowed. Deleted when the block is freed. Full: the block is counted as lost.
 */
NL_MAP(live, HASH, u64, struct nl_live, 1 << 20, BPF_F_NO_PREALLOC);

static __always_inline u64 block_key(u64 address, u32 slot)
{
	return address | ((u64)slot << NL_SLOT_SHIFT);
}

/* Jiffy at which the window opened. Computed at the first block after user space has written the target. */
static __noinline u64 start_tick(struct nl_target *target)
{
	u64 start = bpf_jiffies64() - (bpf_ktime_get_ns() - target->start_ns) / tick_ns;

	target->start_tick = start;
	return start;
}

/* Birth time of a block, from jiffies: bpf_ktime_get_ns() costs a tenth of a recorded block. */
static __always_inline u32 now_born(struct nl_target *target)
{
	u64 start;

	if (!tick_ns)
		return (bpf_ktime_get_ns() - target->start_ns) >> NL_BORN_SHIFT;
	start = target->start_tick;
	if (!start)
		start = start_tick(target);
	return (bpf_jiffies64() - start) * tick_ns >> NL_BORN_SHIFT;
}

/* Cache entry of a key. */
static __always_inline u32 live_cache_index(u64 key)
{
	return 1 + (key * NL_HASH_FACTOR >> (64 - NL_LIVE_CACHE_BITS));
}

/*
 * Has any key of this entry overflowed into `live`? The count goes up before the key is added, so a later free sees
 * it.
 */
static __always_inline int has_overflow(u32 index)
{
	u32 *others = bpf_map_lookup_elem(&live_overflow, &index);

	return !others || *(volatile u32 *)others;
}

/* Add to the number of keys that overflowed; `n` may be -1. */
static __always_inline void count_overflow(u32 index, u32 n)
{
	u32 *others = bpf_map_lookup_elem(&live_overflow, &index);

	if (others)
		__sync_fetch_and_add(others, n);
}

/* Take a block out of the live set. If two threads free the same block, only one gets it. */
static __always_inline int take_block_here(u64 address, u32 slot, struct nl_live *block)
{
	u64 key = block_key(address, slot), *near;
	u32 index = live_cache_index(key);
	struct nl_live *found;

	near = bpf_map_lookup_elem(&live_cache_keys, &index);
	if (near && *(volatile u64 *)near == key) {
		found = bpf_map_lookup_elem(&live_cache, &index);
		if (!found)
			return 0;
		*block = *found;
		return compare_exchange(near, key, 0) == key;
	}
	if (!has_overflow(index))
		return 0;
	found = bpf_map_lookup_elem(&live, &key);
	if (!found)
		return 0;
	*block = *found;
	if (bpf_map_delete_elem(&live, &key))
		return 0;
	count_overflow(index, -1);
	return 1;
}

/* Out-of-line variant for cold paths. */
static __noinline int take_block(u64 address, u32 slot, struct nl_live *block)
{
	return take_block_here(address, slot, block);
}

/*
 * Put a block into the live set. Returns -EEXIST if its address is there already, another error when the map is full.
 */
static __always_inline int put_block_here(u64 address, u32 slot, struct nl_live *block)
{
	u64 key = block_key(address, slot), *near, before;
	u32 index = live_cache_index(key);
	struct nl_live *place;
	int error; /* see store_stack */

	near = bpf_map_lookup_elem(&live_cache_keys, &index);
	place = bpf_map_lookup_elem(&live_cache, &index);
	if (near && place) {
		before = compare_exchange(near, 0, NL_LIVE_CACHE_BUSY);
		if (!before) {
			if (has_overflow(index) && bpf_map_lookup_elem(&live, &key)) {
				exchange(near, 0);
				return -EEXIST;
			}
			*place = *block;
			exchange(near, key);
			return 0;
		}
		if (before == key)
			return -EEXIST;
	}
	count_overflow(index, 1);
	error = bpf_map_update_elem(&live, &key, block, BPF_NOEXIST);
	if (error)
		count_overflow(index, -1);
	return error;
}

/* Out-of-line variant for cold paths. */
static __noinline int put_block(u64 address, u32 slot, struct nl_live *block)
{
	return put_block_here(address, slot, block);
}

/*
 * The address is in the live set already, because its free was not seen: a child made it after vfork, or a function
 * that has no probe. Returns an error when the map is full.
 */
static __noinline int replace_block(struct nl_live *block, u64 address, u32 slot, u32 generation)
{
	struct nl_live old;

	count(NL_OVERWRITTEN);
	if (take_block(address, slot, &old))
		book_freed(&old, slot, generation);
	return put_block(address, slot, block);
}

#endif /* NATIVELEAK_LIVE_BPF_H */
