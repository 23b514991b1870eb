// SPDX-License-Identifier: Apache-2.0
/*
 * Pairs of malloc and free of 16 to 1,024 bytes with work between them, for benchmarks/peers.py.
 *
 * A command is `THREADS PAIRS WORK`: each thread makes so many pairs, with so many rounds of arithmetic before each.
 * The answer is {"elapsed_ns": of the whole, "cpu_ns": of the process meanwhile, "n_pairs": of all threads,
 * "pair_ns": median time of a pair itself, with that of two looks at the clock; 0 where there is no work between}.
 */
#include <time.h>

#include "truth.h"

#define MAX_THREADS 64
#define MAX_TIMED (1 << 20)
#define MAX_PAIR_NS (1 << 16)

static long n_pairs, n_rounds;
/* Of each pair, all threads one after the other. */
static int32_t timed[MAX_TIMED];

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

static int is_timed(long n_threads)
{
	return n_rounds > 0 && n_pairs * n_threads <= MAX_TIMED;
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

static void *timed_work(void *argument)
{
	long thread = (intptr_t)argument;
	uint32_t state = 2654435761u + (uint32_t)thread;

	for (long pair = 0; pair < n_pairs; pair++) {
		int64_t before;

		for (long i = 0; i <= n_rounds; i++)
			state = next_random(state);
		before = clock_ns(CLOCK_MONOTONIC);
		free(rate_pair(16 + state % 1009));
		timed[thread * n_pairs + pair] = (int32_t)(clock_ns(CLOCK_MONOTONIC) - before);
	}
	return NULL;
}

/* Without qsort, which would allocate. */
static int median_ns(long n)
{
	static int32_t counts[MAX_PAIR_NS];
	long seen = 0;
	int ns = 0;

	memset(counts, 0, sizeof(counts));
	for (long i = 0; i < n; i++)
		counts[timed[i] < 0 || timed[i] >= MAX_PAIR_NS ? MAX_PAIR_NS - 1 : timed[i]]++;
	while ((seen += counts[ns]) <= n / 2 && ns < MAX_PAIR_NS - 1)
		ns++;
	return ns;
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
			TRUTH_CHECK(!pthread_create(&threads[t], NULL,
						    is_timed(n_threads) ? timed_work : work,
						    (void *)(intptr_t)t));
		for (long t = 0; t < n_threads; t++)
			pthread_join(threads[t], NULL);
		cpu_ns = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_ns;
		elapsed_ns = clock_ns(CLOCK_MONOTONIC) - elapsed_ns;
		truth_print(
			"{\"elapsed_ns\":%lld,\"cpu_ns\":%lld,\"n_pairs\":%ld,\"pair_ns\":%d}\n",
			(long long)elapsed_ns, (long long)cpu_ns, n_pairs * n_threads,
			is_timed(n_threads) ? median_ns(n_pairs * n_threads) : 0);
		truth_flush();
	}
}
