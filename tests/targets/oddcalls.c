// SPDX-License-Identifier: Apache-2.0
/*
 * Calls at the edges of what the malloc family promises: products that overflow to a small number or to
 * nothing, sizes of zero, blocks from before the trace at every function that takes one, the size that the
 * allocator really gave.
 */
#include "truth.h"
#include <errno.h>
#include <malloc.h>

#define N_ROUNDS 13

static volatile size_t half = (size_t)1 << 63;
static volatile size_t impossible = PTRDIFF_MAX;
static volatile size_t most = SIZE_MAX;
static void *before[4][N_ROUNDS];
static long unmatched;

SITE struct block odd_seed(long bytes)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(malloc((size_t)bytes), bytes, site);
}

/* 2 * 2^63 is 0 in 64 bits: a realloc to 0 would free, this one fails. */
SITE void odd_reallocarray_to_nothing(struct block old)
{
	TRUTH_HEAP();
	TRUTH_CHECK(!reallocarray(old.address, half, 2) && errno == ENOMEM);
}

/* 3 * (2^63 + 1) is 2^63 + 3, and 2 * (2^63 + 24) is 48. */
SITE void odd_reallocarray_to_little(struct block old)
{
	TRUTH_HEAP();
	TRUTH_CHECK(!reallocarray(old.address, 2, half + 24) && errno == ENOMEM);
}

SITE void odd_calloc_overflow(void)
{
	TRUTH_HEAP();
	TRUTH_CHECK(!calloc(half, 2) && errno == ENOMEM);
	TRUTH_CHECK(!calloc(2, half + 24) && errno == ENOMEM);
}

SITE void odd_calloc_zero(void)
{
	truth_block(calloc(0, 31), 0, TRUTH_HEAP());
}

SITE void odd_realloc_null_zero(void)
{
	truth_block(realloc(NULL, 0), 0, TRUTH_HEAP());
}

SITE void odd_reallocarray_zero(struct block old)
{
	TRUTH_HEAP();
	TRUTH_CHECK(!reallocarray(old.address, 0, 31));
	truth_drop(old.site, old.bytes);
}

SITE struct block odd_reallocarray_grow(struct block old)
{
	struct truth_site *site = TRUTH_HEAP();

	truth_drop(old.site, old.bytes);
	return truth_block(reallocarray(old.address, 101, 103), 101 * 103, site);
}

/* The pointer is written only by a call that succeeds. */
SITE void odd_posix_memalign_fails(struct block alive)
{
	static const size_t alignments[] = { 0, 3, 4, 24, 4095 };
	void *address = alive.address;

	TRUTH_HEAP();
	for (size_t i = 0; i < sizeof(alignments) / sizeof(*alignments); i++)
		TRUTH_CHECK(posix_memalign(&address, alignments[i], 31) == EINVAL);
	TRUTH_CHECK(posix_memalign(&address, 4096, impossible) == ENOMEM);
	TRUTH_CHECK(posix_memalign(&address, 4096, most) == ENOMEM);
	TRUTH_CHECK(address == alive.address);
}

SITE void odd_aligned_alloc_fails(void)
{
	TRUTH_HEAP();
	TRUTH_CHECK(!aligned_alloc(4096, impossible));
	TRUTH_CHECK(!memalign(4096, most));
	TRUTH_CHECK(!valloc(impossible));
	TRUTH_CHECK(!pvalloc(impossible));
}

/* Larger than any alignment inside of a chunk: malloc, and the ends given back. */
SITE void odd_memalign_large(void)
{
	void *address = memalign(1 << 20, 300007);

	TRUTH_CHECK(!((uintptr_t)address & ((1 << 20) - 1)));
	truth_block(address, 300007, TRUTH_HEAP());
}

/* As programs do that use all that they were given; what was asked for counts. */
SITE struct block odd_usable(void)
{
	struct truth_site *site = TRUTH_HEAP();
	char *address = malloc(1001);
	size_t usable = malloc_usable_size(address);

	TRUTH_CHECK(usable > 1001);
	memset(address, 1, usable);
	return truth_block(address, 1001, site);
}

SITE struct block odd_usable_realloc(struct block old)
{
	struct truth_site *site = TRUTH_HEAP();
	long usable = (long)malloc_usable_size(old.address);

	truth_drop(old.site, old.bytes);
	return truth_block(realloc(old.address, (size_t)usable), usable, site);
}

/* Blocks from before the trace: none of the four calls knows what it takes. */
SITE void odd_before_realloc(void *old)
{
	truth_block(realloc(old, 2011), 2011, TRUTH_HEAP());
	unmatched++;
}

SITE void odd_before_realloc_fails(void *old)
{
	TRUTH_HEAP();
	TRUTH_CHECK(!realloc(old, impossible));
	unmatched++;
	free(old);
	unmatched++;
}

SITE void odd_before_realloc_zero(void *old)
{
	TRUTH_HEAP();
	TRUTH_CHECK(!realloc(old, 0));
	unmatched++;
}

SITE void odd_before_reallocarray(void *old)
{
	truth_block(reallocarray(old, 7, 11), 77, TRUTH_HEAP());
	unmatched++;
}

int main(void)
{
	for (int i = 0; i < 4; i++)
		for (int j = 0; j < N_ROUNDS; j++)
			before[i][j] = malloc(1021);
	truth_start();
	for (int i = 0; i < N_ROUNDS; i++) {
		struct block kept = odd_seed(109);

		odd_reallocarray_to_nothing(kept);
		odd_reallocarray_to_little(kept);
		odd_calloc_overflow();
		odd_calloc_zero();
		odd_realloc_null_zero();
		odd_reallocarray_zero(odd_seed(113));
		odd_reallocarray_grow(odd_seed(127));
		odd_posix_memalign_fails(kept);
		odd_aligned_alloc_fails();
		odd_memalign_large();
		odd_usable();
		truth_release(odd_usable_realloc(odd_usable()));
		odd_usable_realloc(odd_usable());
		odd_before_realloc(before[0][i]);
		odd_before_realloc_fails(before[1][i]);
		odd_before_realloc_zero(before[2][i]);
		odd_before_reallocarray(before[3][i]);
	}
	truth_report(true, unmatched, "");
	truth_stay();
}
