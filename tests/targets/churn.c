// SPDX-License-Identifier: Apache-2.0
/*
 * malloc/free pairs of 16 to 1024 bytes at full speed, or at a given rate; a few blocks kept at the end.
 *
 * usage: churn [PAIRS=1000000] [THREADS=2] [RATE=0] [KEPT=101]
 *
 * PAIRS and KEPT are those of one thread; RATE is pairs a second and thread, 0 is no limit. The truth
 * carries "n_pairs" (of all threads), "elapsed_ns" (of the slowest thread) and "ns_per_pair" (by the pairs
 * of one thread). Each further `go` does all of it once more, so that a benchmark can take one untraced and
 * one traced turn of the same process.
 */
#include "truth.h"
#include <time.h>

#define MAX_THREADS 64
/* Pairs between two looks at the clock, where a rate is given. */
#define BURST 64

static pthread_barrier_t turn;
static long n_pairs, n_threads, rate, n_kept;
static int64_t elapsed_ns[MAX_THREADS];

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* xorshift32: the same sizes in every run. */
static uint32_t next_random(uint32_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 17;
	*state ^= *state << 5;
	return *state;
}

SITE void *churn_pair(size_t bytes)
{
	return malloc(bytes);
}

SITE void *churn_keep(size_t bytes)
{
	return malloc(bytes);
}

/* Until the time at which `done` pairs are due. */
static void pace(int64_t start_ns, long done)
{
	int64_t due = start_ns + done * 1000000000LL / rate;
	struct timespec until = { due / 1000000000LL, due % 1000000000LL };

	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

static long churn(uint32_t *state)
{
	int64_t start_ns = now_ns();
	long bytes = 0;

	for (long i = 0; i < n_pairs; i++) {
		size_t size = 16 + next_random(state) % 1009;

		free(churn_pair(size));
		bytes += (long)size;
		if (rate && i % BURST == BURST - 1)
			pace(start_ns, i);
	}
	return bytes;
}

static void run(int thread, uint32_t *state)
{
	struct truth_site *pairs = truth_at("churn_pair", "heap");
	struct truth_site *kept = truth_at("churn_keep", "heap");
	int64_t start_ns = now_ns();
	long bytes = churn(state);

	elapsed_ns[thread] = now_ns() - start_ns;
	pairs->allocated_bytes += bytes;
	pairs->allocated_count += n_pairs;
	pairs->freed_bytes += bytes;
	pairs->freed_count += n_pairs;
	for (long i = 0; i < n_kept; i++) {
		long size = 16 + next_random(state) % 1009;

		TRUTH_CHECK(churn_keep((size_t)size));
		truth_add(kept, size);
	}
}

static void *work(void *argument)
{
	int thread = (int)(intptr_t)argument;
	uint32_t state = 2654435761u + (uint32_t)thread;
	char name[16];

	snprintf(name, sizeof(name), "churn-%d", thread);
	truth_name_thread(name);
	/* Makes this thread's arena and caches before the trace begins. */
	free(malloc(1));
	pthread_barrier_wait(&turn);
	for (;;) {
		pthread_barrier_wait(&turn);
		run(thread, &state);
		pthread_barrier_wait(&turn);
	}
	return NULL;
}

static void report(void)
{
	char extra[192];
	int64_t slowest = 0;

	for (int t = 0; t < n_threads; t++)
		if (elapsed_ns[t] > slowest)
			slowest = elapsed_ns[t];
	snprintf(extra, sizeof(extra), "\"n_pairs\":%ld,\"elapsed_ns\":%lld,\"ns_per_pair\":%.2f,",
		 n_pairs * n_threads, (long long)slowest, (double)slowest / (double)n_pairs);
	truth_report(true, 0, extra);
}

int main(int argc, char **argv)
{
	n_pairs = truth_argument(argc, argv, 1, 1000000);
	n_threads = truth_argument(argc, argv, 2, 2);
	rate = truth_argument(argc, argv, 3, 0);
	n_kept = truth_argument(argc, argv, 4, 101);
	TRUTH_CHECK(n_pairs >= 1 && n_threads >= 1 && n_threads <= MAX_THREADS && rate >= 0);
	pthread_barrier_init(&turn, NULL, (unsigned int)n_threads + 1);
	for (long t = 0; t < n_threads; t++) {
		pthread_t thread;

		TRUTH_CHECK(!pthread_create(&thread, NULL, work, (void *)(intptr_t)t));
	}
	pthread_barrier_wait(&turn);
	truth_ready();
	for (;;) {
		truth_expect("go");
		pthread_barrier_wait(&turn);
		pthread_barrier_wait(&turn);
		report();
	}
}
