/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program that walks its own stack inside of malloc, as the heap profilers of jemalloc and tcmalloc do. The truth has how
 * many of these walks were cut.
 */
#include "own.h"
#include <execinfo.h>

#define DEPTH 10
#define N_ROUNDS 1009

static int n_whole, n_cut;

static void walk(void)
{
	static int busy;
	void *frames[64];

	if (busy)
		return;
	busy = 1;
	if (backtrace(frames, 64) >= DEPTH + 2)
		n_whole++;
	else
		n_cut++;
	busy = 0;
}

SITE void *deeper(int depth)
{
	void *block = depth ? deeper(depth - 1) : malloc(53);

	asm volatile("" : "+r"(block));
	return block;
}

SITE void *walked_allocates(void)
{
	void *block = deeper(DEPTH);

	TRUTH_CHECK(block);
	truth_add(TRUTH_HEAP(), 53);
	return block;
}

int main(void)
{
	char extra[64];
	void *frames[4];

	backtrace(frames, 4); /* loads libgcc, which allocates */
	truth_start();
	hook = walk;
	for (int i = 0; i < N_ROUNDS; i++) {
		void *block = walked_allocates();

		if (i % 5) {
			free(block);
			truth_drop(truth_at("walked_allocates", "heap"), 53);
		}
	}
	hook = NULL;
	snprintf(extra, sizeof(extra), "\"whole\":%d,\"cut\":%d,", n_whole, n_cut);
	truth_report(true, 0, extra);
	truth_stay();
}
