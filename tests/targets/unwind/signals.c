// SPDX-License-Identifier: Apache-2.0
/*
 * Is interrupted by a timer wherever it happens to be, and allocates in the handler. The code that is interrupted
 * does not allocate: malloc itself would not stand that.
 *
 * usage: signals [COUNT=400]
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "own_stack.h"

static volatile long sink;
static volatile int n_signals;
static int n_wanted = 400;

OWN void in_handler(int depth)
{
	if (depth)
		in_handler(depth - 1);
	else
		own_stack_keep(223);
	AFTER;
}

static void on_timer(int number)
{
	in_handler(number & 1);
	n_signals++;
}

OWN int compare(const void *a, const void *b)
{
	return (*(const int *)a > *(const int *)b) - (*(const int *)a < *(const int *)b);
}

OWN void formatted(long n)
{
	char text[200];

	snprintf(text, sizeof(text), "%ld %x %s %c", n, (unsigned int)n, "some words", 'c');
	sink += strtol(text, NULL, 10) + (long)strlen(text);
}

OWN void sorted(long n)
{
	int values[40];

	for (int i = 0; i < 40; i++)
		values[i] = (int)(n = n * 1103515245 + 12345);
	qsort(values, 40, sizeof(*values), compare);
	sink += values[0];
}

OWN long down(long depth)
{
	char room[128];

	memset(room, (int)depth, sizeof(room));
	if (depth)
		sink += down(depth - 1);
	return room[depth & 127];
}

OWN long shrink_wrapped(long n)
{
	char room[64];

	if (n & 3)
		return n;
	memcpy(room, "sixty-four bytes, some of which are copied from here to there...", 64);
	sink += room[n & 63];
	formatted(n);
	return room[1];
}

OWN void asked(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	sink += now.tv_nsec + getppid() + time(NULL);
}

static void work(void)
{
	struct itimerval often = { { 0, 307 }, { 0, 307 } }, never = { { 0, 0 }, { 0, 0 } };

	n_signals = 0;
	setitimer(ITIMER_REAL, &often, NULL);
	for (long n = 0; n_signals < n_wanted; n++) {
		formatted(n);
		sorted(n);
		sink += down(12);
		sink += shrink_wrapped(n);
		asked();
	}
	setitimer(ITIMER_REAL, &never, NULL);
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_timer };

	if (argc > 1)
		n_wanted = atoi(argv[1]);
	sigaction(SIGALRM, &action, NULL);
	own_stack_serve(work);
}
