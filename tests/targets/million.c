// SPDX-License-Identifier: Apache-2.0
/*
 * Many outstanding allocations at many call sites, exactly.
 *
 * usage: million [THREADS=20] [SITES a thread=5] [TOTAL outstanding=1000000]
 *
 * TOTAL is spread over all sites, the rest of the division going to the first ones; half as many blocks
 * again are allocated and freed in between. `free` frees all and prints the truth anew; `again` allocates
 * as many once more, in the same threads.
 */
#include "truth.h"

#define MAX_THREADS 64
#define MAX_SITES 16

/* A block carries the link to the one before it: keeping a million needs no memory beside them. */
struct link {
	struct link *next;
};

struct worker {
	pthread_t thread;
	struct link *kept[MAX_SITES];
	struct truth_site *sites[MAX_SITES];
	int number;
};

static struct worker workers[MAX_THREADS];
static pthread_barrier_t turn;
static long n_threads, n_sites, total;
static const long sizes[MAX_SITES] = { 17,  31,	 61,  97,  131, 197, 257, 331,
				       401, 503, 613, 701, 809, 907, 997, 1009 };

#define MILLION_SITE(n)                           \
	SITE void *million_site_##n(size_t bytes) \
	{                                         \
		return malloc(bytes);             \
	}

MILLION_SITE(0)
MILLION_SITE(1)
MILLION_SITE(2)
MILLION_SITE(3)
MILLION_SITE(4)
MILLION_SITE(5)
MILLION_SITE(6)
MILLION_SITE(7)
MILLION_SITE(8)
MILLION_SITE(9)
MILLION_SITE(10)
MILLION_SITE(11)
MILLION_SITE(12)
MILLION_SITE(13)
MILLION_SITE(14)
MILLION_SITE(15)

typedef void *(*allocate_fn)(size_t bytes);

#define MILLION_ENTRY(n)                             \
	{                                            \
		million_site_##n, "million_site_" #n \
	}

static const struct {
	allocate_fn allocate;
	const char *function;
} table[MAX_SITES] = {
	MILLION_ENTRY(0),  MILLION_ENTRY(1),  MILLION_ENTRY(2),	 MILLION_ENTRY(3),
	MILLION_ENTRY(4),  MILLION_ENTRY(5),  MILLION_ENTRY(6),	 MILLION_ENTRY(7),
	MILLION_ENTRY(8),  MILLION_ENTRY(9),  MILLION_ENTRY(10), MILLION_ENTRY(11),
	MILLION_ENTRY(12), MILLION_ENTRY(13), MILLION_ENTRY(14), MILLION_ENTRY(15),
};

static void fill_site(struct worker *worker, int index)
{
	long ordinal = worker->number * n_sites + index;
	long n = total / (n_threads * n_sites) + (ordinal < total % (n_threads * n_sites));
	long bytes = sizes[index];
	struct truth_site *site = worker->sites[index];

	for (long i = 0; i < n; i++) {
		struct link *link = table[index].allocate((size_t)bytes);

		TRUTH_CHECK(link);
		link->next = worker->kept[index];
		worker->kept[index] = link;
		if (i % 2 == 0) {
			free(table[index].allocate((size_t)bytes));
			site->allocated_bytes += bytes;
			site->allocated_count++;
			truth_drop(site, bytes);
		}
	}
	site->allocated_bytes += n * bytes;
	site->allocated_count += n;
}

static void *work(void *argument)
{
	struct worker *worker = argument;
	char name[16];

	snprintf(name, sizeof(name), "worker-%d", worker->number);
	truth_name_thread(name);
	/* Makes this thread's arena and caches before the trace begins. */
	free(malloc(1));
	for (int i = 0; i < n_sites; i++)
		worker->sites[i] = truth_at(table[i].function, "heap");
	pthread_barrier_wait(&turn);
	for (;;) {
		pthread_barrier_wait(&turn);
		for (int i = 0; i < n_sites; i++)
			fill_site(worker, i);
		pthread_barrier_wait(&turn);
	}
	return NULL;
}

static void free_all(void)
{
	for (int t = 0; t < n_threads; t++) {
		for (int i = 0; i < n_sites; i++) {
			struct link *link = workers[t].kept[i];

			while (link) {
				struct link *next = link->next;

				free(link);
				truth_drop(workers[t].sites[i], sizes[i]);
				link = next;
			}
			workers[t].kept[i] = NULL;
		}
	}
}

static void allocate_all(void)
{
	pthread_barrier_wait(&turn);
	pthread_barrier_wait(&turn);
}

int main(int argc, char **argv)
{
	n_threads = truth_argument(argc, argv, 1, 20);
	n_sites = truth_argument(argc, argv, 2, 5);
	total = truth_argument(argc, argv, 3, 1000000);
	TRUTH_CHECK(n_threads >= 1 && n_threads <= MAX_THREADS);
	TRUTH_CHECK(n_sites >= 1 && n_sites <= MAX_SITES);
	pthread_barrier_init(&turn, NULL, (unsigned int)n_threads + 1);
	for (int t = 0; t < n_threads; t++) {
		workers[t].number = t;
		TRUTH_CHECK(!pthread_create(&workers[t].thread, NULL, work, &workers[t]));
	}
	pthread_barrier_wait(&turn);
	truth_start();
	allocate_all();
	for (;;) {
		const char *command;

		truth_report(true, 0, "");
		command = truth_command();
		if (!strcmp(command, "free"))
			free_all();
		else if (!strcmp(command, "again"))
			allocate_all();
		else
			truth_fail("unknown command");
	}
}
