// SPDX-License-Identifier: Apache-2.0
/*
 * Preloaded under a target that has `record_site`: counts every call of the malloc family for the site at work,
 * as the program and the C library make them. For one thread; blocks of other sites are nobody's.
 */
#include "truth.h"
#include <dlfcn.h>

#define N_BLOCKS 65536

extern struct truth_site *volatile record_site;

static struct block blocks[N_BLOCKS];
static void *(*next_malloc)(size_t bytes);
static void *(*next_calloc)(size_t n, size_t bytes);
static void *(*next_realloc)(void *old, size_t bytes);
static void (*next_free)(void *block);
static char early[65536];
static size_t early_used;

static void find_next(void)
{
	if (next_free)
		return;
	next_malloc = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
	next_realloc = (void *(*)(void *, size_t))dlsym(RTLD_NEXT, "realloc");
	next_free = (void (*)(void *))dlsym(RTLD_NEXT, "free");
	next_calloc = (void *(*)(size_t, size_t))dlsym(RTLD_NEXT, "calloc");
}

/* Where a block stands, or the place for it; open addressing, places are not emptied but reused. */
static struct block *place(void *address)
{
	size_t at = ((uintptr_t)address >> 4) * 0x9e3779b97f4a7c15u >> 48;

	while (blocks[at].address && blocks[at].address != address)
		at = (at + 1) % N_BLOCKS;
	return &blocks[at];
}

static void *allocated(void *address, size_t bytes)
{
	struct block *block;

	if (!address || !record_site)
		return address;
	block = place(address);
	block->address = address;
	block->bytes = (long)bytes;
	block->site = record_site;
	truth_add(record_site, (long)bytes);
	return address;
}

static void freed(void *address)
{
	struct block *block = place(address);

	if (address && block->site) {
		truth_drop(block->site, block->bytes);
		block->site = NULL;
	}
}

void *malloc(size_t bytes)
{
	find_next();
	return allocated(next_malloc(bytes), bytes);
}

void *calloc(size_t n, size_t bytes)
{
	if (!next_calloc) {
		/* dlsym itself asks for it. */
		void *block = early + early_used;

		early_used += (n * bytes + 15) & ~15ul;
		TRUTH_CHECK(early_used <= sizeof(early));
		return block;
	}
	return allocated(next_calloc(n, bytes), n * bytes);
}

void *realloc(void *old, size_t bytes)
{
	void *block;

	find_next();
	block = next_realloc(old, bytes);
	if (block || !bytes)
		freed(old);
	return allocated(block, bytes);
}

void *reallocarray(void *old, size_t n, size_t bytes)
{
	return realloc(old, n * bytes);
}

void free(void *block)
{
	if ((char *)block >= early && (char *)block < early + sizeof(early))
		return;
	find_next();
	freed(block);
	next_free(block);
}
