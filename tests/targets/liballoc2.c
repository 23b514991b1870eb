// SPDX-License-Identifier: Apache-2.0
/*
 * A second allocator under the standard names: bumps a pointer through chunks that it maps, reuses nothing.
 * A block's size stands before it. Calls within the library stay within it (-Bsymbolic), and nest on
 * purpose: calloc and realloc call malloc, posix_memalign calls aligned_alloc.
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define CHUNK_BYTES (1ul << 20)
#define HEADER_BYTES 16ul

static char *chunk_next, *chunk_end;

void *malloc(size_t bytes);
void *calloc(size_t n, size_t bytes);
void *realloc(void *old, size_t bytes);
void *aligned_alloc(size_t alignment, size_t bytes);
int posix_memalign(void **result, size_t alignment, size_t bytes);
void free(void *block);

/* Not for several threads at a time: its one user has one. */
void *aligned_alloc(size_t alignment, size_t bytes)
{
	uintptr_t start = ((uintptr_t)chunk_next + HEADER_BYTES + alignment - 1) & -alignment;

	if (bytes > CHUNK_BYTES / 2 || alignment > CHUNK_BYTES / 4) {
		errno = ENOMEM;
		return NULL;
	}
	if (!chunk_next || start + bytes > (uintptr_t)chunk_end) {
		void *chunk = mmap(NULL, CHUNK_BYTES, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		if (chunk == MAP_FAILED)
			return NULL;
		chunk_next = chunk;
		chunk_end = chunk_next + CHUNK_BYTES;
		start = ((uintptr_t)chunk_next + HEADER_BYTES + alignment - 1) & -alignment;
	}
	chunk_next = (char *)start + bytes;
	memcpy((char *)start - sizeof(bytes), &bytes, sizeof(bytes));
	return (void *)start;
}

void *malloc(size_t bytes)
{
	return aligned_alloc(16, bytes);
}

void *calloc(size_t n, size_t bytes)
{
	size_t all;

	/* Fresh from mmap and never reused: zero already. */
	if (__builtin_mul_overflow(n, bytes, &all)) {
		errno = ENOMEM;
		return NULL;
	}
	return malloc(all);
}

void *realloc(void *old, size_t bytes)
{
	size_t old_bytes;
	void *block = malloc(bytes);

	if (!old || !block)
		return block;
	memcpy(&old_bytes, (char *)old - sizeof(old_bytes), sizeof(old_bytes));
	memcpy(block, old, old_bytes < bytes ? old_bytes : bytes);
	free(old);
	return block;
}

int posix_memalign(void **result, size_t alignment, size_t bytes)
{
	void *block;

	if (alignment < sizeof(void *) || alignment & (alignment - 1))
		return EINVAL;
	block = aligned_alloc(alignment, bytes);
	if (!block)
		return ENOMEM;
	*result = block;
	return 0;
}

void free(void *block)
{
	if (block)
		memset((char *)block - sizeof(size_t), 0xff, sizeof(size_t));
}
