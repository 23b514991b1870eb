/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An allocator of the program's own under the standard names. It takes no lock and never hands out an address twice, so
 * that a call may be left or entered again anywhere; `hook` is called in the middle of malloc. With UNPROVED its malloc has
 * a path, never taken, over a byte that is no instruction.
 */
#ifndef OWN_H
#define OWN_H

#include "../truth.h"
#include <stdatomic.h>

#define ARENA_BYTES (1ul << 30)

static _Atomic size_t arena_used;
static char arena[ARENA_BYTES] __attribute__((aligned(64)));
static void (*volatile hook)(void);

#define OWN __attribute__((noipa, visibility("default")))

OWN void *malloc(size_t n)
{
	size_t bytes = (n + 31) & ~15ul, at = atomic_fetch_add(&arena_used, bytes);

	if (n > ARENA_BYTES || at + bytes > ARENA_BYTES)
		return NULL;
#ifdef UNPROVED
	asm volatile("test %0, %0\n\tjnz 1f\n\t.byte 0x06\n1:" : : "r"(bytes) : "cc");
#endif
	if (hook)
		hook();
	*(size_t *)(arena + at) = n;
	return arena + at + 16;
}

OWN void free(void *block)
{
	/* Behind the test is a place for the probe. */
	if (block)
		asm volatile("" ::: "memory");
}

OWN void *calloc(size_t n, size_t size)
{
	return malloc(n * size);
}

OWN void *realloc(void *old, size_t n)
{
	char *block = malloc(n);

	if (old && block) {
		size_t before = ((size_t *)old)[-2];

		memcpy(block, old, before < n ? before : n);
	}
	return block;
}

#endif
