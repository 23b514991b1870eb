// SPDX-License-Identifier: Apache-2.0
/*
 * Pairs of malloc and free of 16 to 1,024 bytes with work between them, for benchmarks/peers.py.
 *
 * A command is `THREADS PAIRS WORK`: each thread makes so many pairs, with so many rounds of arithmetic before each.
 * The answer is {"elapsed_ns": of the whole, "cpu_ns": of the process meanwhile, "n_pairs": of all threads}.
 */
#include <time.h>

#include "truth.h"

#define MAX_THREADS 64

static long n_pairs, n_rounds;

static int64_t clock_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* xorshift32: nothing that a compiler could leave out. */
static uint32_t next_random(uint32_t state)
{
	state ^= state << 13;
	state ^= state >> 17;
	return state ^ state << 5;
}

SITE void *rate_pair(size_t bytes)
{
	return malloc(bytes);
}

static void *work(void *argument)
{
	uint32_t state = 2654435761u + (uint32_t)(intptr_t)argument;

	for (long pair = 0; pair < n_pairs; pair++) {
		for (long i = 0; i <= n_rounds; i++)
			state = next_random(state);
		free(rate_pair(16 + state % 1009));
	}
	return NULL;
}

int main(void)
{
	pthread_t threads[MAX_THREADS];
	long n_threads;

	truth_ready();
	for (;;) {
		int64_t elapsed_ns, cpu_ns;

		TRUTH_CHECK(sscanf(truth_command(), "%ld %ld %ld", &n_threads, &n_pairs,
				   &n_rounds) == 3);
		TRUTH_CHECK(n_threads >= 1 && n_threads <= MAX_THREADS && n_pairs >= 1 &&
			    n_rounds >= 0);
		elapsed_ns = clock_ns(CLOCK_MONOTONIC);
		cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID);
		for (long t = 0; t < n_threads; t++)
			TRUTH_CHECK(!pthread_create(&threads[t], NULL, work, (void *)(intptr_t)t));
		for (long t = 0; t < n_threads; t++)
			pthread_join(threads[t], NULL);
		cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;
		elapsed_ns = clock_ns(CLOCK_MONOTONIC) - elapsed_ns;
		truth_print("{\"elapsed_ns\":%lld,\"cpu_ns\":%lld,\"n_pairs\":%ld}\n",
			    (long long)elapsed_ns, (long long)cpu_ns, n_pairs * n_threads);
		truth_flush();
	}
}
