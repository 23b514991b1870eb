// SPDX-License-Identifier: Apache-2.0
/*
 * Many threads that live for a moment: each allocates, frees most of it, and ends; every 101st keeps a block.
 *
 * usage: lives [THREADS=20000] [AT A TIME=4]
 *
 * The truth has no sites by thread but sums: {"kept_bytes", "kept_count", "allocated_bytes", "allocated_count"}.
 * What pthread_create allocates is in none of them.
 */
#include "truth.h"

#define MAX_AT_A_TIME 64
#define N_BLOCKS 3

static long kept_bytes, kept_count, allocated_bytes, allocated_count;

SITE void *lives_block(size_t bytes)
{
	__atomic_fetch_add(&allocated_bytes, (long)bytes, __ATOMIC_RELAXED);
	__atomic_fetch_add(&allocated_count, 1, __ATOMIC_RELAXED);
	return malloc(bytes);
}

static void *live(void *argument)
{
	long number = (long)(intptr_t)argument;
	char name[16];

	snprintf(name, sizeof(name), "life-%ld", number);
	truth_name_thread(name);
	for (int i = 0; i < N_BLOCKS; i++) {
		long bytes = 17 + number % 1009;
		void *block = lives_block((size_t)bytes);

		TRUTH_CHECK(block);
		if (i || number % 101) {
			free(block);
			continue;
		}
		__atomic_fetch_add(&kept_bytes, bytes, __ATOMIC_RELAXED);
		__atomic_fetch_add(&kept_count, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	long n_threads = truth_argument(argc, argv, 1, 20000);
	long at_a_time = truth_argument(argc, argv, 2, 4);
	pthread_t threads[MAX_AT_A_TIME];

	TRUTH_CHECK(at_a_time >= 1 && at_a_time <= MAX_AT_A_TIME);
	truth_start();
	for (long done = 0; done < n_threads; done += at_a_time) {
		long n = n_threads - done < at_a_time ? n_threads - done : at_a_time;

		for (long i = 0; i < n; i++)
			TRUTH_CHECK(!pthread_create(&threads[i], NULL, live,
						    (void *)(intptr_t)(done + i)));
		for (long i = 0; i < n; i++)
			TRUTH_CHECK(!pthread_join(threads[i], NULL));
	}
	truth_print(
		"{\"kept_bytes\":%ld,\"kept_count\":%ld,\"allocated_bytes\":%ld,\"allocated_count\":%ld}\n",
		kept_bytes, kept_count, allocated_bytes, allocated_count);
	truth_flush();
	truth_stay();
}
