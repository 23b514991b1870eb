// SPDX-License-Identifier: Apache-2.0
/*
 * Does one thing at a command, each answered by the whole truth so far; for a tracer that watches more at one time than
 * at another.
 *
 * `keep K N`: N blocks at the site of K, which is 1 to 3; `free K N`: the first N of those left are freed;
 * `grow K N`: N more of them become larger, and are gone after that; `big N`: N blocks of 5 MB, each mapped by itself;
 * `burst MS RATE`: pairs of malloc and free, RATE a second, 0 for full speed, with work between; the truth
 * carries "work", which is less by what the pairs cost
 */
#include "truth.h"
#include <time.h>

#define MAX_BLOCKS 100000
#define KEPT_BYTES 1009
#define GROWN_BYTES 2027
#define BIG_BYTES 5000011

static void *blocks[4][MAX_BLOCKS];
static long first[4], last[4], work;

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

static long now_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static void burst(long ms, long rate)
{
	struct truth_site *site = truth_at("phases_burst", "heap");
	long start_us = now_us(), passed_us = 0, n = 0;

	for (; passed_us < ms * 1000; passed_us = now_us() - start_us) {
		long due = rate ? passed_us * rate / 1000000 : n + 1000;

		for (; n < due; n++)
			free(phases_burst());
		for (volatile int i = 0; i < 1000; i++)
			;
		work++;
	}
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
		char extra[64];
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
		else if (sscanf(command, "burst %ld %ld", &n, &k) == 2)
			burst(n, k);
		else
			truth_fail("unknown command");
		snprintf(extra, sizeof(extra), "\"work\":%ld,", work);
		truth_report(true, 0, extra);
	}
}
