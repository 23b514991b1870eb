/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table of blocks that checks itself: each block has a pattern of its own, which is checked before the block is freed
 * or moved. A program that includes this shows that a trace has not harmed it: a wrong byte ends it with status 3.
 */
#ifndef CHECKED_H
#define CHECKED_H

#include "truth.h"
#include <time.h>

#define CHECKED_BLOCKS 512

struct checked {
	unsigned char *block[CHECKED_BLOCKS];
	size_t bytes[CHECKED_BLOCKS];
	uint64_t random;
	unsigned long n_steps;
};

HELPER uint64_t checked_random(struct checked *table)
{
	table->random ^= table->random << 13;
	table->random ^= table->random >> 7;
	table->random ^= table->random << 17;
	return table->random;
}

HELPER unsigned char checked_pattern(size_t i)
{
	return (unsigned char)(i * 37 + 1);
}

HELPER void checked_check(const struct checked *table, size_t i, size_t bytes)
{
	for (size_t k = 0; k < bytes; k += 1 + k / 16)
		if (table->block[i][k] != checked_pattern(i))
			truth_fail("a block has changed");
}

/* Allocate one block, or check and free or move one. */
HELPER void checked_step(struct checked *table)
{
	size_t i = checked_random(table) % CHECKED_BLOCKS;
	size_t bytes = 1 + checked_random(table) % 2000;

	table->n_steps++;
	if (!table->block[i]) {
		table->block[i] = malloc(bytes);
	} else if (checked_random(table) % 4) {
		checked_check(table, i, table->bytes[i]);
		free(table->block[i]);
		table->block[i] = NULL;
		return;
	} else {
		size_t kept = bytes < table->bytes[i] ? bytes : table->bytes[i];

		table->block[i] = realloc(table->block[i], bytes);
		TRUTH_CHECK(table->block[i]);
		checked_check(table, i, kept);
	}
	TRUTH_CHECK(table->block[i]);
	table->bytes[i] = bytes;
	memset(table->block[i], checked_pattern(i), bytes);
}

/* A pause that makes no system call. */
HELPER void checked_pause(void)
{
	for (volatile int i = 0; i < 20000; i++)
		;
}

#endif
