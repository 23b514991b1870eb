/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the programs of the corpus in C and C++ share: the pace, the truth they print, the main function.
 *
 *   PROGRAM SCENARIO PACE
 *
 * PACE is in seconds: the scale of everything that the scenario does. It prints `READY <pid>` when it starts to work,
 * and from then on, four times in a pace, its truth:
 *
 *   T <ms since the epoch> <function>=<bytes>/<blocks> ...
 *
 * with what each leaking function has kept so far. A scenario never returns; the program ends with its parent.
 */
#ifndef CORPUS_H
#define CORPUS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline))
#define SHARED __attribute__((unused)) static

enum { TICKS = 100, MAX_KEPT = 4 }; /* ticks in a pace; leaking functions in a scenario */

static struct {
	const char *function;
	unsigned long bytes, blocks;
} corpus_kept[MAX_KEPT];
static double corpus_pace = 1.0;
static unsigned long corpus_now; /* ticks since the start */

struct scenario {
	const char *name;
	void (*run)(void);
};

/* Note that a function has kept blocks for ever; from any thread. */
SHARED void corpus_keep(const char *function, unsigned long bytes, unsigned long blocks)
{
	int i = 0;
	while (corpus_kept[i].function && strcmp(corpus_kept[i].function, function))
		i++;
	corpus_kept[i].function = function;
	__atomic_add_fetch(&corpus_kept[i].bytes, bytes, __ATOMIC_RELAXED);
	__atomic_add_fetch(&corpus_kept[i].blocks, blocks, __ATOMIC_RELAXED);
}

SHARED double corpus_clock(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

SHARED void corpus_tell(void)
{
	char line[512];
	int n = snprintf(line, sizeof(line), "T %.0f", corpus_clock(CLOCK_REALTIME) * 1000);
	for (int i = 0; i < MAX_KEPT && corpus_kept[i].function; i++)
		n += snprintf(line + n, sizeof(line) - (size_t)n, " %s=%lu/%lu",
			      corpus_kept[i].function, corpus_kept[i].bytes, corpus_kept[i].blocks);
	line[n++] = '\n';
	if (write(STDOUT_FILENO, line, (size_t)n) != n)
		_exit(1);
}

/* Sleep a part of a pace. */
SHARED void corpus_sleep(double paces)
{
	double s = paces * corpus_pace;
	struct timespec t = { (time_t)s, (long)((s - (double)(time_t)s) * 1e9) };
	nanosleep(&t, NULL);
}

/* Wait for the next of the TICKS of a pace; tell the truth four times in a pace. The main thread calls it. */
SHARED void corpus_tick(void)
{
	static double start;
	double now = corpus_clock(CLOCK_MONOTONIC);
	if (!start)
		start = now;
	corpus_now++;
	double wait = start + (double)corpus_now * corpus_pace / TICKS - now;
	if (wait > 0)
		corpus_sleep(wait / corpus_pace);
	if (corpus_now % (TICKS / 4) == 0)
		corpus_tell();
}

/* Random numbers that are the same in each run. */
SHARED unsigned corpus_random(unsigned below)
{
	static __thread uint32_t state = 2463534242u;
	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state % below;
}

SHARED int corpus_main(int argc, char **argv, const struct scenario *scenarios, int n)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (argc > 2)
		corpus_pace = atof(argv[2]);
	for (int i = 0; argc > 1 && i < n; i++)
		if (!strcmp(argv[1], scenarios[i].name)) {
			char line[32];
			int length = snprintf(line, sizeof(line), "READY %d\n", (int)getpid());
			if (write(STDOUT_FILENO, line, (size_t)length) != length)
				return 1;
			scenarios[i].run();
		}
	for (int i = 0; i < n; i++)
		fprintf(stderr, "%s%s",
			i ? " " : "usage: PROGRAM SCENARIO PACE; scenarios: ", scenarios[i].name);
	fputc('\n', stderr);
	return 2;
}

#define CORPUS_MAIN(scenarios)                                                       \
	int main(int argc, char **argv)                                              \
	{                                                                            \
		return corpus_main(argc, argv, scenarios,                            \
				   (int)(sizeof(scenarios) / sizeof(*(scenarios)))); \
	}

#endif
