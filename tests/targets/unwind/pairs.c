// SPDX-License-Identifier: Apache-2.0
/*
 * Times pairs of malloc and free under a recursion of a given depth, for benchmarks/unwind_cost.py. At depth 0 there
 * are five frames above malloc: descend, main and three below it.
 *
 * A command is a depth; the answer is {"ns": CPU time of a pair, the median of 101 batches}. CPU time, so that other
 * work on the machine counts as little as it can.
 */
#include <time.h>

#include "../truth.h"

#define BATCHES 101
#define PAIRS 100

static double batches[BATCHES];

static int compare(const void *a, const void *b)
{
	double left = *(const double *)a, right = *(const double *)b;

	return (left > right) - (left < right);
}

static double now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	return 1e9 * (double)now.tv_sec + (double)now.tv_nsec;
}

SITE void descend(long depth)
{
	if (depth) {
		descend(depth - 1);
		__asm__ volatile("" ::: "memory");
		return;
	}
	for (int batch = 0; batch < BATCHES; batch++) {
		double start_ns = now_ns();

		for (int pair = 0; pair < PAIRS; pair++)
			free(malloc(67));
		batches[batch] = (now_ns() - start_ns) / PAIRS;
	}
}

int main(void)
{
	truth_ready();
	for (;;) {
		descend(atol(truth_command()));
		qsort(batches, BATCHES, sizeof(*batches), compare);
		truth_print("{\"ns\":%.1f}\n", batches[BATCHES / 2]);
		truth_flush();
	}
}
