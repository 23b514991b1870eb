// SPDX-License-Identifier: Apache-2.0
/*
 * Memory of known use. Commands, each answered by the truth: `map N T` maps N MiB and writes T of them; `threads N`
 * starts N threads, each of which writes 256 KiB of its stack and waits; `fragment N` writes N MiB in blocks of
 * 1,009 bytes and frees all but every 64th; `take N` writes one block of N MiB, `drop` frees it. `pace K M` writes K KiB
 * more every M ms and answers nothing more.
 */
#include "truth.h"
#include <sys/mman.h>
#include <time.h>

#define MIB (1l << 20)
#define STACK_KIB 256
#define BLOCK 1009

static char *taken;
static pthread_barrier_t started;

SITE void map_memory(long bytes, long touched)
{
	char *start = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			   -1, 0);

	TRUTH_CHECK(start != MAP_FAILED);
	memset(start, 1, (size_t)touched);
}

HELPER void *waits(void *unused)
{
	volatile char room[STACK_KIB << 10];

	for (size_t i = 0; i < sizeof(room); i += 4096)
		room[i] = 1;
	pthread_barrier_wait(&started);
	for (;;)
		pause();
	return unused;
}

SITE void start_threads(long n)
{
	pthread_t thread;

	TRUTH_CHECK(!pthread_barrier_init(&started, NULL, (unsigned int)n + 1));
	for (long i = 0; i < n; i++)
		TRUTH_CHECK(!pthread_create(&thread, NULL, waits, NULL));
	pthread_barrier_wait(&started);
}

SITE void fragment_heap(long bytes)
{
	long n = bytes / BLOCK;
	char **blocks = malloc((size_t)n * sizeof(*blocks));

	TRUTH_CHECK(blocks);
	for (long i = 0; i < n; i++) {
		blocks[i] = malloc(BLOCK);
		TRUTH_CHECK(blocks[i]);
		memset(blocks[i], 1, BLOCK);
	}
	for (long i = 0; i < n; i++)
		if (i % 64)
			free(blocks[i]);
	free(blocks);
}

SITE void take_block(long bytes)
{
	taken = malloc((size_t)bytes);
	TRUTH_CHECK(taken);
	memset(taken, 1, (size_t)bytes);
}

SITE void grow_at_pace(long kib, long ms)
{
	struct timespec pause = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 };

	for (;;) {
		char *block = malloc((size_t)kib << 10);

		TRUTH_CHECK(block);
		memset(block, 1, (size_t)kib << 10);
		nanosleep(&pause, NULL);
	}
}

static void do_command(const char *command)
{
	long n, m;

	if (sscanf(command, "map %ld %ld", &n, &m) == 2) {
		map_memory(n * MIB, m * MIB);
	} else if (sscanf(command, "threads %ld", &n) == 1) {
		start_threads(n);
	} else if (sscanf(command, "fragment %ld", &n) == 1) {
		fragment_heap(n * MIB);
	} else if (sscanf(command, "take %ld", &n) == 1) {
		take_block(n * MIB);
	} else if (!strcmp(command, "drop")) {
		free(taken);
	} else if (sscanf(command, "pace %ld %ld", &n, &m) == 2) {
		grow_at_pace(n, m);
	} else {
		truth_fail("unknown command");
	}
}

int main(void)
{
	truth_ready();
	for (;;) {
		do_command(truth_command());
		truth_report(true, 0, "");
	}
}
