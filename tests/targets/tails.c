// SPDX-License-Identifier: Apache-2.0
/*
 * Functions that end in a jump to the allocator, so that no return address of theirs is on the stack:
 *   tails_direct    called by its address, jumps to malloc
 *   tails_twice     jumps to tails_direct: of the two only the one that was called is certain
 *   tails_library   in libtails.so, called through the linker's stub
 *   tails_slot      in libtails.so, called through the slot itself
 * and tails_plain, which returns. Sizes are prime; each function's blocks have a size of their own.
 */
#include "truth.h"

#define TAIL __attribute__((noipa, visibility("default"), optimize("optimize-sibling-calls")))

void *tails_library(long bytes);
__attribute__((noplt)) void *tails_slot(long bytes);

#ifdef LIBRARY
TAIL void *tails_library(long bytes)
{
	return malloc((size_t)bytes);
}

TAIL void *tails_slot(long bytes)
{
	return calloc(1, (size_t)bytes);
}
#else
TAIL void *tails_direct(long bytes)
{
	return malloc((size_t)bytes);
}

TAIL void *tails_twice(long bytes)
{
	return tails_direct(bytes + 2);
}

SITE void *tails_plain(long bytes)
{
	char *block = malloc((size_t)bytes);

	block[0] = 1;
	return block;
}

static void keep(const char *function, void *block, long bytes)
{
	truth_block(block, bytes, truth_at(function, "heap"));
}

int main(void)
{
	truth_start();
	for (int i = 0; i < 7; i++) {
		keep("tails_direct", tails_direct(1009), 1009);
		keep("tails_twice", tails_twice(1019), 1021);
		keep("tails_library", tails_library(1031), 1031);
		keep("tails_slot", tails_slot(1049), 1049);
		keep("tails_plain", tails_plain(1061), 1061);
	}
	truth_report(true, 0, "");
	truth_stay();
}
#endif
