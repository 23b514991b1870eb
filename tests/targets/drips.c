// SPDX-License-Identifier: Apache-2.0
/*
 * Keeps more blocks of a known size, beside others that come and go.
 *
 * drips. Commands: `keep SIZE COUNT` allocates and keeps; `drip SIZE RATE` keeps RATE blocks a second from now on,
 * `drip 0 0` stops; `churn N` replaces N blocks of many sizes; `hold MIB` maps and writes memory. `keep`, `churn` and
 * `truth` are answered with the number of blocks kept by size: {"kept": {"200": 7}}.
 */
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { SLOTS = 5000, SIZES = 8, TICK_MS = 20 };

static struct {
	size_t size;
	long count;
} kept[SIZES];

static void *slots[SLOTS];
static uint64_t state = 88172645463325252ull;

static uint64_t next_random(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static void fail(const char *what)
{
	fprintf(stderr, "drips: %s\n", what);
	exit(1);
}

/* The first word of each block holds the address of the last one of its size: all of them stay reachable. */
static void *chain[SIZES];

static void keep(size_t size, long count)
{
	int i = 0;

	while (i < SIZES && kept[i].size && kept[i].size != size)
		i++;
	if (i == SIZES)
		fail("too many sizes");
	kept[i].size = size;
	for (long n = 0; n < count; n++) {
		void **block = malloc(size);

		if (!block)
			fail("malloc");
		memset(block, 0x5a, size);
		*block = chain[i];
		chain[i] = block;
	}
	kept[i].count += count;
}

static void churn(long count)
{
	for (long n = 0; n < count; n++) {
		int i = (int)(next_random() % SLOTS);

		free(slots[i]);
		slots[i] = malloc(16 + 16 * (next_random() % 60));
		if (!slots[i])
			fail("malloc");
	}
}

static void hold(size_t mib)
{
	char *start =
		mmap(NULL, mib << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (start == MAP_FAILED)
		fail("mmap");
	memset(start, 1, mib << 20);
}

static void answer(void)
{
	const char *comma = "";

	printf("{\"kept\": {");
	for (int i = 0; i < SIZES && kept[i].size; i++) {
		printf("%s\"%zu\": %ld", comma, kept[i].size, kept[i].count);
		comma = ", ";
	}
	puts("}}");
	fflush(stdout);
}

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static size_t drip_size;
static double drip_rate, drip_since;
static long dripped;

static void drip(void)
{
	long due = (long)((now_s() - drip_since) * drip_rate) - dripped;

	if (!drip_size || due <= 0)
		return;
	keep(drip_size, due);
	churn(due);
	dripped += due;
}

static void obey(const char *line)
{
	size_t size;
	double rate;
	long count;

	if (sscanf(line, "keep %zu %ld", &size, &count) == 2) {
		keep(size, count);
		answer();
	} else if (sscanf(line, "drip %zu %lf", &size, &rate) == 2) {
		drip_size = size;
		drip_rate = rate;
		drip_since = now_s();
		dripped = 0;
	} else if (sscanf(line, "churn %ld", &count) == 1) {
		churn(count);
		answer();
	} else if (sscanf(line, "hold %ld", &count) == 1) {
		hold((size_t)count);
	} else if (!strcmp(line, "truth\n")) {
		answer();
	} else {
		fail("unknown command");
	}
}

int main(void)
{
	char line[128];
	struct pollfd input = { .fd = 0, .events = POLLIN };

	setvbuf(stdin, NULL, _IONBF, 0);
	churn(4 * SLOTS);
	printf("READY %d\n", (int)getpid());
	fflush(stdout);
	for (;;) {
		drip();
		if (poll(&input, 1, TICK_MS) <= 0)
			continue;
		if (!fgets(line, sizeof(line), stdin))
			return 0;
		obey(line);
	}
}
