// SPDX-License-Identifier: Apache-2.0
/*
 * What every libc and every allocator has, in main and two named workers: for musl, for static binaries,
 * and for jemalloc, tcmalloc and mimalloc by LD_PRELOAD.
 *
 * Incomplete: another allocator maps its own memory as it likes.
 */
#include "truth.h"

#define N_THREADS 3

static const long primes[N_THREADS] = { 3, 5, 7 };
static const char *const names[N_THREADS] = { "portable", "order-cache", "chunk-pool" };
static pthread_barrier_t turn;
static struct block handed[N_THREADS];
static volatile size_t impossible = PTRDIFF_MAX;

SITE struct block portable_malloc(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(malloc(997), 997, site);
}

SITE struct block portable_malloc_freed(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(malloc(499), 499, site);
}

/* Above any allocator's size classes: mapped by itself. */
SITE struct block portable_large(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(malloc(5242907), 5242907, site);
}

SITE void portable_malloc_impossible(void)
{
	TRUTH_HEAP();
	TRUTH_CHECK(!malloc(impossible));
}

SITE struct block portable_calloc(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(calloc(13, 71), 13 * 71, site);
}

SITE struct block portable_realloc_null(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(realloc(NULL, 607), 607, site);
}

SITE struct block portable_realloc(struct block old)
{
	struct truth_site *site = TRUTH_HEAP();

	truth_drop(old.site, old.bytes);
	return truth_block(realloc(old.address, 10007), 10007, site);
}

SITE void portable_realloc_impossible(struct block old)
{
	TRUTH_HEAP();
	TRUTH_CHECK(!realloc(old.address, impossible));
}

SITE struct block portable_posix_memalign(void)
{
	struct truth_site *site = TRUTH_HEAP();
	void *address = NULL;

	TRUTH_CHECK(!posix_memalign(&address, 64, 463));
	return truth_block(address, 463, site);
}

SITE struct block portable_aligned_alloc(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(aligned_alloc(128, 521), 521, site);
}

SITE struct block portable_strdup(const char *text)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(strdup(text), (long)strlen(text) + 1, site);
}

SITE struct block portable_handed_over(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(malloc(877), 877, site);
}

static void run(int thread)
{
	for (long i = 0; i < primes[thread]; i++) {
		struct block kept = portable_malloc();

		portable_realloc_impossible(kept);
		truth_release(portable_malloc_freed());
		portable_large();
		truth_release(portable_large());
		portable_calloc();
		portable_realloc(portable_realloc_null());
		portable_realloc_null();
		portable_posix_memalign();
		portable_aligned_alloc();
		portable_strdup("forty-two characters make 43 bytes of copy");
	}
	portable_malloc_impossible();
	free(NULL);
	handed[thread] = portable_handed_over();
	pthread_barrier_wait(&turn);
	truth_release(handed[(thread + 1) % N_THREADS]);
	pthread_barrier_wait(&turn);
}

static void *work(void *argument)
{
	int thread = (int)(intptr_t)argument;

	truth_name_thread(names[thread]);
	/* Makes this thread's caches before the trace begins. */
	free(malloc(1));
	pthread_barrier_wait(&turn);
	pthread_barrier_wait(&turn);
	run(thread);
	/* Stays, so that its name and its tid stay. */
	pthread_barrier_wait(&turn);
	return NULL;
}

int main(void)
{
	pthread_barrier_init(&turn, NULL, N_THREADS);
	for (long i = 1; i < N_THREADS; i++) {
		pthread_t thread;

		TRUTH_CHECK(!pthread_create(&thread, NULL, work, (void *)i));
	}
	truth_name_thread(names[0]);
	free(malloc(1));
	pthread_barrier_wait(&turn);
	truth_start();
	pthread_barrier_wait(&turn);
	run(0);
	truth_report(false, 0, "");
	truth_stay();
}
