// SPDX-License-Identifier: Apache-2.0
/*
 * Many small blocks of several kinds in several threads, every second one freed again, and a few big ones: for sampling.
 * Each thread and function is a site of its own, so that one run gives THREADS x 6 independent estimates.
 * posix_memalign, realloc(NULL) and, in musl, calloc allocate by another allocator function.
 *
 * usage: mixed [BLOCKS=2003] [THREADS=8]
 */
#include "truth.h"

#define MAX_THREADS 64
#define N_BIG 5
#define BIG_BYTES 600011

static pthread_barrier_t turn;
static long n_blocks, n_threads;

SITE void *mixed_tiny(size_t bytes)
{
	return malloc(bytes);
}

SITE void *mixed_varied(size_t bytes)
{
	return malloc(bytes);
}

SITE void *mixed_calloc(size_t bytes)
{
	return calloc(1, bytes);
}

SITE void *mixed_realloc(size_t bytes)
{
	return realloc(NULL, bytes);
}

SITE void *mixed_grown(void *block, size_t bytes)
{
	return realloc(block, bytes);
}

SITE void *mixed_aligned(size_t bytes)
{
	void *block;

	TRUTH_CHECK(!posix_memalign(&block, 64, bytes));
	return block;
}

SITE void *mixed_big(size_t bytes)
{
	return malloc(bytes);
}

static void take(struct truth_site *site, void *block, long bytes, long i)
{
	TRUTH_CHECK(block);
	truth_add(site, bytes);
	if (i & 1) {
		free(block);
		truth_drop(site, bytes);
	}
}

static void run(uint32_t random)
{
	struct truth_site *tiny = truth_at("mixed_tiny", "heap"),
			  *varied = truth_at("mixed_varied", "heap");
	struct truth_site *zeroed = truth_at("mixed_calloc", "heap"),
			  *null = truth_at("mixed_realloc", "heap");
	struct truth_site *grown = truth_at("mixed_grown", "heap"),
			  *aligned = truth_at("mixed_aligned", "heap");
	struct truth_site *big = truth_at("mixed_big", "heap");

	for (long i = 0; i < n_blocks; i++) {
		long bytes;
		void *block;

		random = random * 1664525u + 1013904223u;
		bytes = 1 + (random >> 8) % 4093;
		take(tiny, mixed_tiny(23), 23, i);
		take(varied, mixed_varied((size_t)bytes), bytes, i);
		take(zeroed, mixed_calloc(317), 317, i);
		block = mixed_realloc(211);
		TRUTH_CHECK(block);
		truth_add(null, 211);
		if (i & 2) {
			block = mixed_grown(block, 1409);
			truth_drop(null, 211);
			take(grown, block, 1409, i);
		}
		take(aligned, mixed_aligned(887), 887, i);
	}
	for (long i = 0; i < N_BIG; i++)
		take(big, mixed_big(BIG_BYTES), BIG_BYTES, 2 * i);
}

static void *work(void *argument)
{
	char name[16];

	snprintf(name, sizeof(name), "mixed-%d", (int)(intptr_t)argument);
	truth_name_thread(name);
	free(malloc(1));
	pthread_barrier_wait(&turn);
	for (;;) {
		pthread_barrier_wait(&turn);
		run(2654435761u * (uint32_t)(intptr_t)argument);
		pthread_barrier_wait(&turn);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	n_blocks = truth_argument(argc, argv, 1, 2003);
	n_threads = truth_argument(argc, argv, 2, 8);
	TRUTH_CHECK(n_blocks >= 1 && n_threads >= 1 && n_threads <= MAX_THREADS);
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
		truth_report(true, 0, "");
	}
}
