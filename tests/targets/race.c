// SPDX-License-Identifier: Apache-2.0
/*
 * Blocks of one size class handed to other threads, which free them at once: the allocator gives the same
 * address out again within nanoseconds, to whoever asks first.
 *
 * usage: race [ROUNDS a thread=100000] [THREADS=8]
 *
 * Each round allocates a block and swaps it for what another thread left in a shared slot, which is then
 * freed; every 1009th block is kept instead. What lies in the slots at the end is outstanding too.
 */
#include "truth.h"

#define MAX_THREADS 64
#define N_SLOTS 5
#define BLOCK_BYTES 73
#define KEEP_EVERY 1009

/* What a block says of itself to whoever frees it. */
struct parcel {
	struct truth_site *owner;
};

static struct parcel *slots[N_SLOTS];
static pthread_barrier_t turn;
static long n_rounds;

SITE void *race_parcel(void)
{
	return malloc(BLOCK_BYTES);
}

static void run(int thread, struct truth_site *site)
{
	for (long i = 0; i < n_rounds; i++) {
		struct parcel *parcel = race_parcel();

		TRUTH_CHECK(parcel);
		truth_add(site, BLOCK_BYTES);
		if (i % KEEP_EVERY == KEEP_EVERY - 1)
			continue;
		parcel->owner = site;
		parcel = __atomic_exchange_n(&slots[(i + thread) % N_SLOTS], parcel,
					     __ATOMIC_ACQ_REL);
		if (parcel) {
			truth_drop(parcel->owner, BLOCK_BYTES);
			free(parcel);
		}
	}
}

static void *work(void *argument)
{
	int thread = (int)(intptr_t)argument;
	char name[16];

	snprintf(name, sizeof(name), "racer-%d", thread);
	truth_name_thread(name);
	/* Makes this thread's arena and caches before the trace begins. */
	free(malloc(1));
	pthread_barrier_wait(&turn);
	pthread_barrier_wait(&turn);
	run(thread, truth_at("race_parcel", "heap"));
	pthread_barrier_wait(&turn);
	/* Stays, so that its name and its tid stay. */
	pthread_barrier_wait(&turn);
	return NULL;
}

int main(int argc, char **argv)
{
	long n_threads = truth_argument(argc, argv, 2, 8);

	n_rounds = truth_argument(argc, argv, 1, 100000);
	TRUTH_CHECK(n_threads >= 1 && n_threads <= MAX_THREADS);
	pthread_barrier_init(&turn, NULL, (unsigned int)n_threads + 1);
	for (long t = 0; t < n_threads; t++) {
		pthread_t thread;

		TRUTH_CHECK(!pthread_create(&thread, NULL, work, (void *)(intptr_t)t));
	}
	pthread_barrier_wait(&turn);
	truth_start();
	pthread_barrier_wait(&turn);
	pthread_barrier_wait(&turn);
	truth_report(true, 0, "");
	truth_stay();
}
