// SPDX-License-Identifier: Apache-2.0
/*
 * Leaks beneath churn, for benchmarks/naming.py: sites that free at once, a ring, a table of long lives, and three that
 * leak. Each leak shares the size of its blocks with churn, and all contents are zeros.
 *
 * naming THREADS SEED EVERY RETAIN: one turn in EVERY leaks at each of the three (0: none); RETAIN 1: each thread makes
 * and frees 50 MB now and then, so that the allocator retains memory. Four times a second it prints the truth:
 * `site BLOCKS BYTES` for each site that leaks.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SITE(name, number)                          \
	__attribute__((noipa)) void *name(size_t n) \
	{                                           \
		void *block = calloc(1, n);         \
		count(number, n);                   \
		return block;                       \
	}
#define N_RING 64
#define N_TABLE 20000
#define N_BURST 50000

static unsigned long n_blocks[3], n_bytes[3];
static long every, seed;
static int retain;

static void count(int number, size_t n)
{
	if (number < 0)
		return;
	__atomic_fetch_add(&n_blocks[number], 1, __ATOMIC_RELAXED);
	__atomic_fetch_add(&n_bytes[number], n, __ATOMIC_RELAXED);
}

SITE(naming_hot, -1)
SITE(naming_ring, -1)
SITE(naming_table, -1)
SITE(naming_burst, -1)
SITE(naming_leak_small, 0)
SITE(naming_leak_middle, 1)
SITE(naming_leak_large, 2)

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void burst(void)
{
	void **blocks = malloc(N_BURST * sizeof(*blocks));

	for (long i = 0; i < N_BURST; i++)
		blocks[i] = naming_burst(1000);
	for (long i = 0; i < N_BURST; i++)
		free(blocks[i]);
	free(blocks);
}

static void *run(void *argument)
{
	uint64_t state = 88172645463325252ull * ((uintptr_t)argument + 1) + 7919ull * seed;
	void **ring = calloc(N_RING, sizeof(*ring)), **table = calloc(N_TABLE, sizeof(*table));

	for (uint64_t turn = 1;; turn++) {
		uint64_t r = next_random(&state);
		long at = r % N_RING, place = (r >> 20) % N_TABLE;

		free(naming_hot(150));
		free(ring[at]);
		ring[at] = naming_ring(104 + (r >> 8) % 320);
		if (turn % 4 == 0) {
			free(table[place]);
			table[place] = naming_table(200);
		}
		if (every && next_random(&state) % every == 0)
			naming_leak_small(120);
		if (every && next_random(&state) % every == 0)
			naming_leak_middle(200);
		if (every && next_random(&state) % every == 0)
			naming_leak_large(3000);
		if (retain && turn % 2000000 == 0)
			burst();
	}
	return NULL;
}

int main(int argc, char **argv)
{
	long n_threads = argc > 1 ? atol(argv[1]) : 1;
	pthread_t thread;

	seed = argc > 2 ? atol(argv[2]) : 1;
	every = argc > 3 ? atol(argv[3]) : 0;
	retain = argc > 4 && atoi(argv[4]);
	for (long i = 0; i < n_threads; i++)
		if (pthread_create(&thread, NULL, run, (void *)i))
			return 1;
	for (;;) {
		printf("naming_leak_small %lu %lu naming_leak_middle %lu %lu naming_leak_large %lu %lu\n",
		       n_blocks[0], n_bytes[0], n_blocks[1], n_bytes[1], n_blocks[2], n_bytes[2]);
		fflush(stdout);
		usleep(250000);
	}
}
