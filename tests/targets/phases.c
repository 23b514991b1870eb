// SPDX-License-Identifier: Apache-2.0
/*
 * Does one thing at a command, each answered by the whole truth so far; for a tracer that watches more at one time than
 * at another.
 *
 * `keep K N`: N blocks at the site of K, which is 1 to 3; `free K N`: the first N of those left are freed;
 * `grow K N`: N more of them become larger, and are gone after that; `big N`: N blocks of 5 MB, each mapped by itself;
 * `burst MS`: pairs of malloc and free at full speed
 */
#include "truth.h"
#include <time.h>

#define MAX_BLOCKS 100000
#define KEPT_BYTES 1009
#define GROWN_BYTES 2027
#define BIG_BYTES 5000011

static void *blocks[4][MAX_BLOCKS];
static long first[4], last[4];

SITE void *phases_first(void)
{
	return malloc(KEPT_BYTES);
}

SITE void *phases_second(void)
{
	return malloc(KEPT_BYTES);
}

SITE void *phases_third(void)
{
	return malloc(KEPT_BYTES);
}

SITE void *phases_grown(void *block)
{
	return realloc(block, GROWN_BYTES);
}

SITE void *phases_big(void)
{
	return malloc(BIG_BYTES);
}

SITE void *phases_burst(void)
{
	return malloc(KEPT_BYTES);
}

static const char *const names[4] = { NULL, "phases_first", "phases_second", "phases_third" };

static void keep(long k, long n)
{
	for (long i = 0; i < n; i++) {
		TRUTH_CHECK(last[k] < MAX_BLOCKS);
		blocks[k][last[k]++] = k == 1 ? phases_first() :
				       k == 2 ? phases_second() :
						phases_third();
		truth_add(truth_at(names[k], "heap"), KEPT_BYTES);
	}
}

static void release(long k, long n)
{
	for (long i = 0; i < n; i++) {
		free(blocks[k][first[k]++]);
		truth_drop(truth_at(names[k], "heap"), KEPT_BYTES);
	}
}

static void grow(long k, long n)
{
	for (long i = 0; i < n; i++) {
		TRUTH_CHECK(phases_grown(blocks[k][first[k]++]));
		truth_drop(truth_at(names[k], "heap"), KEPT_BYTES);
		truth_add(truth_at("phases_grown", "heap"), GROWN_BYTES);
	}
}

static void burst(long ms)
{
	struct truth_site *site = truth_at("phases_burst", "heap");
	struct timespec now;
	long end_ms, n = 0;

	clock_gettime(CLOCK_MONOTONIC, &now);
	end_ms = now.tv_sec * 1000 + now.tv_nsec / 1000000 + ms;
	do {
		for (int i = 0; i < 1000; i++)
			free(phases_burst());
		n += 1000;
		clock_gettime(CLOCK_MONOTONIC, &now);
	} while (now.tv_sec * 1000 + now.tv_nsec / 1000000 < end_ms);
	site->allocated_bytes += n * KEPT_BYTES;
	site->allocated_count += n;
	site->freed_bytes += n * KEPT_BYTES;
	site->freed_count += n;
}

int main(void)
{
	free(malloc(1));
	truth_ready();
	for (;;) {
		const char *command = truth_command();
		long k, n;

		if (sscanf(command, "keep %ld %ld", &k, &n) == 2 && k > 0 && k < 4)
			keep(k, n);
		else if (sscanf(command, "free %ld %ld", &k, &n) == 2 && k > 0 && k < 4)
			release(k, n);
		else if (sscanf(command, "grow %ld %ld", &k, &n) == 2 && k > 0 && k < 4)
			grow(k, n);
		else if (sscanf(command, "big %ld", &n) == 1)
			for (long i = 0; i < n; i++)
				truth_block(phases_big(), BIG_BYTES,
					    truth_at("phases_big", "heap"));
		else if (sscanf(command, "burst %ld", &n) == 1)
			burst(n);
		else
			truth_fail("unknown command");
		truth_report(true, 0, "");
	}
}
