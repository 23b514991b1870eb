// SPDX-License-Identifier: Apache-2.0
/*
 * More of everything than a tracer has room for, one kind at a command, each answered by the whole truth so far:
 *
 * `maps N`: N mappings of a page, each at a place of its own; `unmap`: all of them gone
 * `stacks`: one block at each of 128 distinct stacks
 * `threads`: the threads, made before READY, allocate a block and map memory, one after the other
 *
 * usage: storm [THREADS=0]
 */
#include "truth.h"
#include <sys/mman.h>

#define MAX_THREADS 256
#define MAX_MAPS 65536
#define MAP_BYTES (3 * TRUTH_PAGE)

static char *maps[MAX_MAPS];
static long n_maps;
static pthread_barrier_t turn;
static long n_threads;

SITE char *storm_map(void)
{
	struct truth_site *site = truth_at(__func__, "map");
	char *address = mmap(NULL, MAP_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	TRUTH_CHECK(address != MAP_FAILED);
	truth_add(site, MAP_BYTES);
	return address;
}

SITE void storm_block(void)
{
	struct truth_site *site = TRUTH_HEAP();

	truth_block(malloc(127), 127, site);
}

SITE void storm_thread_block(void)
{
	struct truth_site *site = TRUTH_HEAP();

	truth_block(malloc(1123), 1123, site);
}

/* Two ways down at each of seven steps: the bits of `path` make 128 stacks. */
SITE void storm_left(int steps, int path);
SITE void storm_right(int steps, int path);

static void down(int steps, int path)
{
	if (!steps)
		storm_block();
	else if (path & 1)
		storm_left(steps - 1, path >> 1);
	else
		storm_right(steps - 1, path >> 1);
}

SITE void storm_left(int steps, int path)
{
	down(steps, path);
}

SITE void storm_right(int steps, int path)
{
	down(steps, path);
}

static void *stay(void *argument)
{
	for (;;) {
		for (long i = 0; i < n_threads; i++) {
			pthread_barrier_wait(&turn);
			if (i == (long)(intptr_t)argument) {
				storm_thread_block();
				storm_map();
			}
		}
		pthread_barrier_wait(&turn);
	}
	return NULL;
}

/* One thread at a time: who comes first is no matter of chance. */
static void take_turns(void)
{
	for (long i = 0; i < n_threads; i++)
		pthread_barrier_wait(&turn);
	pthread_barrier_wait(&turn);
}

static void do_command(const char *command)
{
	if (sscanf(command, "maps %ld", &n_maps) == 1) {
		TRUTH_CHECK(n_maps <= MAX_MAPS);
		for (long i = 0; i < n_maps; i++)
			maps[i] = storm_map();
	} else if (!strcmp(command, "unmap")) {
		for (long i = 0; i < n_maps; i++) {
			TRUTH_CHECK(!munmap(maps[i], MAP_BYTES));
			truth_drop(truth_at("storm_map", "map"), MAP_BYTES);
		}
	} else if (!strcmp(command, "stacks")) {
		for (int path = 0; path < 128; path++)
			down(7, path);
	} else if (!strcmp(command, "threads")) {
		take_turns();
	} else {
		truth_fail("unknown command");
	}
}

int main(int argc, char **argv)
{
	n_threads = truth_argument(argc, argv, 1, 0);
	TRUTH_CHECK(n_threads <= MAX_THREADS);
	pthread_barrier_init(&turn, NULL, (unsigned int)n_threads + 1);
	for (long i = 0; i < n_threads; i++) {
		pthread_t thread;

		TRUTH_CHECK(!pthread_create(&thread, NULL, stay, (void *)i));
	}
	free(malloc(1));
	truth_ready();
	for (;;) {
		do_command(truth_command());
		truth_report(false, 0, "");
	}
}
