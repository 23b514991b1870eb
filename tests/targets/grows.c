// SPDX-License-Identifier: Apache-2.0
/*
 * Resident memory that grows by what is known: `heap N` and `map N` take and write N MiB, `touch N` writes to N MiB
 * that were mapped before READY. Each is answered by the truth.
 */
#include "truth.h"
#include <sys/mman.h>

#define MIB (1l << 20)
#define ROOM (64 * MIB)

static char *room;

SITE void grow_heap(void)
{
	struct truth_site *site = TRUTH_HEAP();
	struct block block = truth_block(malloc(65521), 65521, site);

	memset(block.address, 1, 65521);
}

SITE void grow_map(long bytes)
{
	struct truth_site *site = TRUTH_MAP();
	char *start = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			   -1, 0);

	TRUTH_CHECK(start != MAP_FAILED);
	truth_add(site, bytes);
	memset(start, 1, (size_t)bytes);
}

static void do_command(const char *command)
{
	long n;

	if (sscanf(command, "heap %ld", &n) == 1) {
		for (long i = 0; i < n * 16; i++)
			grow_heap();
	} else if (sscanf(command, "map %ld", &n) == 1) {
		grow_map(n * MIB);
	} else if (sscanf(command, "touch %ld", &n) == 1) {
		TRUTH_CHECK(n * MIB <= ROOM);
		memset(room, 1, (size_t)(n * MIB));
	} else {
		truth_fail("unknown command");
	}
}

int main(void)
{
	room = mmap(NULL, ROOM, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TRUTH_CHECK(room != MAP_FAILED);
	truth_ready();
	for (;;) {
		do_command(truth_command());
		truth_report(true, 0, "");
	}
}
