/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fibers of which one yields to another inside of malloc, as user space locks in allocators do (brpc, Photon, Seastar): calls
 * do not return in the order in which they were made. argv: bytes between two fibers' stacks.
 */
#include "own.h"
#include <sys/mman.h>
#include <ucontext.h>

#define N_FIBERS 7
#define N_ROUNDS 1009

static ucontext_t contexts[N_FIBERS], of_main;
static int running = -1, n_running = N_FIBERS, n_yields;
static int done[N_FIBERS];

static void yield(void)
{
	int from = running;

	if (from < 0 || ++n_yields % 3)
		return;
	for (int step = 1 + n_yields / 3 % N_FIBERS; step <= 2 * N_FIBERS; step++) {
		int to = (from + step) % N_FIBERS;

		if (to != from && !done[to]) {
			running = to;
			TRUTH_CHECK(!swapcontext(&contexts[from], &contexts[to]));
			return;
		}
	}
}

SITE void *fiber_allocates(size_t bytes)
{
	void *block = malloc(bytes);

	TRUTH_CHECK(block);
	truth_add(TRUTH_HEAP(), (long)bytes);
	return block;
}

static void work(int number)
{
	struct truth_site *site;

	for (int i = 0; i < N_ROUNDS; i++) {
		size_t bytes = 100 + (size_t)number;
		unsigned char *block = fiber_allocates(bytes);

		site = truth_at("fiber_allocates", "heap");
		memset(block, number, bytes);
		for (size_t at = 0; at < bytes; at++)
			TRUTH_CHECK(block[at] == number);
		if (i % 11) {
			free(block);
			truth_drop(site, (long)bytes);
		}
	}
	done[number] = 1;
	n_running--;
	for (int to = 0; to < N_FIBERS; to++) {
		if (!done[to]) {
			running = to;
			setcontext(&contexts[to]);
		}
	}
	running = -1;
	setcontext(&of_main);
}

int main(int argc, char **argv)
{
	size_t step = (size_t)truth_argument(argc, argv, 1, 1 << 20);
	char *stacks = mmap(NULL, N_FIBERS * step, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	volatile int started = 0;

	TRUTH_CHECK(stacks != MAP_FAILED);
	for (int i = 0; i < N_FIBERS; i++) {
		getcontext(&contexts[i]);
		contexts[i].uc_stack.ss_sp = stacks + (size_t)i * step;
		contexts[i].uc_stack.ss_size = step;
		makecontext(&contexts[i], (void (*)(void))work, 1, i);
	}
	truth_start();
	hook = yield;
	getcontext(&of_main);
	if (!started) {
		started = 1;
		running = 0;
		setcontext(&contexts[0]);
	}
	hook = NULL;
	TRUTH_CHECK(!n_running && n_yields > N_ROUNDS);
	truth_report(true, 0, "");
	truth_stay();
}
