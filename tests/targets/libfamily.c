// SPDX-License-Identifier: Apache-2.0
/*
 * Two allocators under changed names, one heap: `_fam_NAME_v2` has what proves an allocator (malloc_usable_size,
 * mallocx), `acme_NAME` has not. Functions nest on purpose: calloc, realloc and mallocx call malloc. Blocks are not
 * reused. `plain_malloc` and its kin only pass calls on to the C library.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK_BYTES (1ul << 20)
#define HEADER_BYTES 16ul
#ifndef PUBLIC
#define PUBLIC __attribute__((noinline, visibility("default")))
#endif
#define FAMILY(prefix, suffix)                                                           \
	PUBLIC void *prefix##malloc##suffix(size_t bytes)                                \
	{                                                                                \
		return take(bytes);                                                      \
	}                                                                                \
	PUBLIC void *prefix##calloc##suffix(size_t n, size_t bytes)                      \
	{                                                                                \
		char *block = prefix##malloc##suffix(n * bytes);                         \
		return block ? memset(block, 0, n * bytes) : block;                      \
	}                                                                                \
	PUBLIC void prefix##free##suffix(void *block)                                    \
	{                                                                                \
		give(block);                                                             \
	}                                                                                \
	PUBLIC void *prefix##realloc##suffix(void *old, size_t bytes)                    \
	{                                                                                \
		char *block = prefix##malloc##suffix(bytes);                             \
		if (block && old) {                                                      \
			memcpy(block, old, size_of(old) < bytes ? size_of(old) : bytes); \
			prefix##free##suffix(old);                                       \
		}                                                                        \
		return block;                                                            \
	}

/* As in an allocator that is built into a program. */
__attribute__((used)) static const char message[] = "<jemalloc>: made up";
static char *chunk_next, *chunk_end;
static volatile size_t given_bytes;

static size_t size_of(void *block)
{
	size_t bytes;

	memcpy(&bytes, (char *)block - sizeof(bytes), sizeof(bytes));
	return bytes;
}

static __attribute__((noinline)) void *take(size_t bytes)
{
	char *start;

	if (!chunk_next || bytes + 2 * HEADER_BYTES > (size_t)(chunk_end - chunk_next)) {
		chunk_next = mmap(NULL, CHUNK_BYTES, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (chunk_next == MAP_FAILED)
			return NULL;
		chunk_end = chunk_next + CHUNK_BYTES;
	}
	start = (char *)(((uintptr_t)chunk_next + 2 * HEADER_BYTES - 1) & -HEADER_BYTES);
	memcpy(start - sizeof(bytes), &bytes, sizeof(bytes));
	chunk_next = start + bytes;
	return start;
}

static __attribute__((noinline)) void give(void *block)
{
	if (block)
		given_bytes += size_of(block);
}

FAMILY(_fam_, _v2)
FAMILY(acme_, )

PUBLIC size_t _fam_malloc_usable_size_v2(void *block)
{
	return size_of(block);
}

PUBLIC void *_fam_mallocx_v2(size_t bytes, int flags)
{
	(void)flags;
	return _fam_malloc_v2(bytes);
}

PUBLIC void *_fam_rallocx_v2(void *old, size_t bytes, int flags)
{
	(void)flags;
	return _fam_realloc_v2(old, bytes);
}

PUBLIC void _fam_sdallocx_v2(void *block, size_t bytes, int flags)
{
	(void)flags;
	if (size_of(block) == bytes)
		_fam_free_v2(block);
}

PUBLIC void _fam_free_size_v2(void *block, size_t bytes)
{
	_fam_sdallocx_v2(block, bytes, 0);
}

PUBLIC void *plain_malloc(size_t bytes)
{
	return malloc(bytes);
}

PUBLIC void *plain_calloc(size_t n, size_t bytes)
{
	return calloc(n, bytes);
}

PUBLIC void *plain_realloc(void *old, size_t bytes)
{
	return realloc(old, bytes);
}

PUBLIC void plain_free(void *block)
{
	free(block);
}
