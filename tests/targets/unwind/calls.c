// SPDX-License-Identifier: Apache-2.0
/*
 * Allocates under every form of frame that C compilers make, and from under the C library. What alternates is in
 * volatile variables, so that no compiler knows it.
 *
 * usage: calls [plain]     plain: without what leaves a function other than by its return
 */
#define _GNU_SOURCE
#include <alloca.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#include "own_stack.h"

#define STACK_BYTES (64 << 10)

static volatile long sink;
static volatile int zero;
static void *volatile used;
static int is_plain;

/* ------ forms of frames ------ */

OWN void recurse(int depth)
{
	if (depth > 0)
		recurse(depth - 1);
	else
		own_stack_keep(101);
	AFTER;
	sink++;
}

OWN long nine(long a, long b, long c, long d, long e, long f, long g, long h, long i)
{
	own_stack_keep(103);
	return a + b * c + d * e + f * g + h * i;
}

OWN void on_alloca(size_t size)
{
	char *room = alloca(size);

	memset(room, 1, size);
	used = room;
	own_stack_keep(107);
	sink += room[size / 2];
}

OWN void on_array(size_t size)
{
	char room[size];

	memset(room, 1, size);
	used = room;
	own_stack_keep(109);
	sink += room[size / 2];
}

OWN void large_frame(void)
{
	char room[200000];

	memset(room, 1, sizeof(room));
	used = room;
	own_stack_keep(113);
	sink += room[zero];
}

OWN void aligned(void)
{
	char room[64] __attribute__((aligned(64)));

	memset(room, 1, sizeof(room));
	used = room;
	own_stack_keep(127);
	sink += room[zero];
}

OWN void aligned_with_array(size_t size)
{
	char room[64] __attribute__((aligned(64)));
	char more[size];

	memset(room, 1, sizeof(room));
	memset(more, 2, size);
	used = room;
	own_stack_keep(131);
	used = more;
	sink += room[zero] + more[zero];
}

OWN long aligned_with_nine(long a, long b, long c, long d, long e, long f, long g, long h, long i)
{
	char room[64] __attribute__((aligned(64)));

	memset(room, 1, sizeof(room));
	used = room;
	own_stack_keep(137);
	return a + b * c + d * e + f * g + h * i + room[zero];
}

OWN void tail_second(int n)
{
	own_stack_keep((size_t)n);
}

OWN void tail_first(int n)
{
	sink += n;
	tail_second(n);
}

OWN void shrink_wrapped(int n)
{
	char room[100];

	if (!n) {
		sink++;
		return;
	}
	used = room;
	memset(room, n, sizeof(room));
	own_stack_keep(149);
	sink += room[zero];
	if (n > 5)
		own_stack_keep(151);
}

OWN void switched(int n)
{
	switch (n) {
	case 0:
		own_stack_keep(157);
		break;
	case 1:
		own_stack_keep(163);
		sink++;
		break;
	case 2:
		recurse(1);
		break;
	case 3:
		own_stack_keep(167);
		return;
	default:
		abort();
	}
	AFTER;
}

OWN void by_pointer(void *(*volatile function)(size_t))
{
	function(173);
	AFTER;
}

OWN void never_returns(void)
{
	own_stack_keep(179);
	pthread_exit(NULL);
}

/* ------ through the C library ------ */

OWN int compare(const void *a, const void *b)
{
	own_stack_keep(181);
	return *(const int *)a - *(const int *)b;
}

OWN void sorted(void)
{
	int values[6] = { 5, 3, 6, 1, 2, 4 };

	qsort(values, 6, sizeof(*values), compare);
	sink += values[zero];
}

OWN void searched(void)
{
	int values[6] = { 1, 2, 3, 4, 5, 6 }, key = 4;

	used = bsearch(&key, values, 6, sizeof(*values), compare);
	AFTER;
}

OWN void duplicated(void)
{
	used = strdup("nineteen characters");
	AFTER;
}

OWN void printed(void)
{
	char *text;

	if (asprintf(&text, "%d %s %f", 1, "two", 3.0) > 0)
		used = text;
	AFTER;
}

OWN void streamed(void)
{
	char *text;
	size_t n;
	FILE *stream = open_memstream(&text, &n);

	fprintf(stream, "%d %500d", 12345, 6);
	fclose(stream);
	used = text;
}

OWN void line_read(void)
{
	FILE *file = fopen("/proc/self/stat", "r");
	char *line = NULL;
	size_t n = 0;

	if (file && getline(&line, &n, file) > 0)
		used = line;
	if (file)
		fclose(file);
}

OWN void time_told(void)
{
	char text[64];
	time_t then = 1000000007;
	struct tm parts;

	setenv("TZ", sink & 1 ? "Europe/Berlin" : "Asia/Tokyo", 1);
	tzset();
	localtime_r(&then, &parts);
	sink += (long)strftime(text, sizeof(text), "%c", &parts);
}

static pthread_once_t once = PTHREAD_ONCE_INIT;

OWN void once_only(void)
{
	own_stack_keep(191);
	AFTER;
}

/* ------ other stacks ------ */

static void on_signal(int number)
{
	own_stack_keep(193);
	sink += number;
}

static void on_signal_with_facts(int number, siginfo_t *facts, void *context)
{
	own_stack_keep(197);
	sink += number + facts->si_code + (context != NULL);
}

OWN void raised(void)
{
	raise(SIGUSR1);
	AFTER;
}

OWN void raised_to_other_stack(void)
{
	kill(getpid(), SIGUSR2);
	AFTER;
}

static void handle_signals(void)
{
	static char room[STACK_BYTES];
	stack_t stack = { .ss_sp = room, .ss_size = sizeof(room) };
	struct sigaction action = { .sa_handler = on_signal };

	sigaltstack(&stack, NULL);
	sigaction(SIGUSR1, &action, NULL);
	action.sa_sigaction = on_signal_with_facts;
	action.sa_flags = SA_SIGINFO | SA_ONSTACK;
	sigaction(SIGUSR2, &action, NULL);
}

static ucontext_t caller, other;

OWN void switched_deeper(int n)
{
	own_stack_keep(199);
	AFTER;
	sink += n;
}

static void switched_to(int a, int b)
{
	switched_deeper(a);
	swapcontext(&other, &caller);
	switched_deeper(b);
}

OWN void contexts(void)
{
	static char room[STACK_BYTES];

	getcontext(&other);
	other.uc_stack.ss_sp = room;
	other.uc_stack.ss_size = sizeof(room);
	other.uc_link = &caller;
	makecontext(&other, (void (*)(void))switched_to, 2, 1, 2);
	swapcontext(&caller, &other);
	AFTER;
	swapcontext(&caller, &other);
	AFTER;
}

/* Keeps all registers in memory, the frame pointer not beside the return address. */
OWN long on_registers(long a, size_t size)
{
	long b = sink, c = sink, d = sink, e = sink, f = sink;

	on_alloca(size);
	AFTER;
	return (a + b) * (c + d) * (e + f);
}

/* Its own frame is found by the frame pointer alone. */
static void above_the_end(int n)
{
	for (size_t size = 16; size < 2048; size += 16) {
		char *room = alloca(1 + (size_t)zero);

		used = room;
		sink += on_registers(n, size);
	}
	AFTER;
}

/* A stack that ends where memory does, walked from each distance to there. */
OWN void near_the_end(void)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *room = mmap(NULL, STACK_BYTES + page, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (room == MAP_FAILED || mprotect(room + STACK_BYTES, page, PROT_NONE))
		abort();
	getcontext(&other);
	other.uc_stack.ss_sp = room;
	other.uc_stack.ss_size = STACK_BYTES;
	other.uc_link = &caller;
	makecontext(&other, (void (*)(void))above_the_end, 1, 1);
	swapcontext(&caller, &other);
	munmap(room, STACK_BYTES + page);
}

static void on_thread_end(void *value)
{
	own_stack_keep(211);
	sink += value != NULL;
}

static pthread_key_t key;

OWN void in_thread(void)
{
	recurse(3);
	pthread_setspecific(key, &key);
	if (!is_plain)
		never_returns();
}

static void *thread_main(void *argument)
{
	in_thread();
	AFTER;
	return argument;
}

OWN void threaded(void)
{
	pthread_t thread;

	if (!pthread_create(&thread, NULL, thread_main, NULL))
		pthread_join(thread, NULL);
}

static void work(void)
{
	for (int round = 0; round < 5; round++) {
		recurse(0);
		recurse(20);
		sink += nine(1, 2, 3, 4, 5, 6, 7, 8, 9);
		on_alloca((size_t)(100 + round * 50));
		on_array((size_t)(77 + round * 99));
		large_frame();
		aligned();
		aligned_with_array((size_t)(50 + round));
		sink += aligned_with_nine(1, 2, 3, 4, 5, 6, 7, 8, 9);
		tail_first(139 + round);
		for (int i = 0; i < 4; i++)
			switched(i);
		shrink_wrapped(round);
		shrink_wrapped(7);
		by_pointer(own_stack_keep);
		sorted();
		searched();
		duplicated();
		printed();
		streamed();
		line_read();
		time_told();
		pthread_once(&once, once_only);
		threaded();
		if (!is_plain) {
			raised();
			raised_to_other_stack();
			contexts();
			near_the_end();
		}
	}
}

int main(int argc, char **argv)
{
	is_plain = argc > 1 && !strcmp(argv[1], "plain");
	pthread_key_create(&key, on_thread_end);
	handle_signals();
	own_stack_serve(work);
}
