// SPDX-License-Identifier: Apache-2.0
/*
 * Notes the stack of each allocation as glibc's own backtrace() sees it, for the target to hold a tracer against.
 *
 * malloc and its like are defined here and go on to those of the C library by a jump: the return address that the
 * tracer finds there is the one that backtrace() has seen. It cannot be taken inside of the traced function, where
 * the kernel's return probe has put its trampoline in the place of the return address. free is not defined, so
 * that this is no allocator that would be traced itself. A static program is linked with --wrap for each of them.
 *
 * Compiled once, with unwind information and optimised, whatever the target is made with. With
 * -finstrument-functions in the target its own unwinder is not asked: what has been entered and not left is kept
 * in a list, with the return address of each. That needs no unwind information at all, but knows only the target.
 *
 * The answer to `go`: {"stacks": [{"tid", "function", "count", "bytes", "frames": [address, ...]}], "lost": 0}
 */
#include <execinfo.h>

#include "../truth.h"
#include "own_stack.h"

#define MAX_NOTES 30000
#define MAX_NOTED_FRAMES 64
/* Frames of ours above the caller: note and the function that was called. */
#define OWN_FRAMES 2
#define MAX_ENTERED 256

struct note {
	const char *function;
	size_t bytes;
	int tid;
	int n;
	int count;
	void *frames[MAX_NOTED_FRAMES];
};

static struct note notes[MAX_NOTES];
static int n_notes;
static volatile bool is_on;

/* Return addresses of the instrumented functions that have been entered. */
static __thread void *entered[MAX_ENTERED] __attribute__((tls_model("initial-exec")));
static __thread int n_entered __attribute__((tls_model("initial-exec")));

void __cyg_profile_func_enter(void *function, void *call_site);
void __cyg_profile_func_exit(void *function, void *call_site);

void __cyg_profile_func_enter(void *function, void *call_site)
{
	(void)function;
	TRUTH_CHECK(n_entered < MAX_ENTERED);
	entered[n_entered++] = call_site;
}

void __cyg_profile_func_exit(void *function, void *call_site)
{
	(void)function;
	(void)call_site;
	n_entered--;
}

/* A signal handler may come in between and note too: nothing is locked. */
__attribute__((noinline)) static void note(const char *function, size_t bytes, void *caller)
{
	void *frames[MAX_NOTED_FRAMES + OWN_FRAMES];
	struct note *note;
	int at;

	if (!is_on)
		return;
	at = __atomic_fetch_add(&n_notes, 1, __ATOMIC_RELAXED);
	if (at >= MAX_NOTES)
		return;
	note = &notes[at];
	note->function = function;
	note->bytes = bytes;
	note->tid = truth_tid();
	note->count = 1;
	if (n_entered) {
		note->n = 0;
		note->frames[note->n++] = caller;
		for (int i = n_entered - 1; i >= 0 && note->n < MAX_NOTED_FRAMES; i--)
			note->frames[note->n++] = entered[i];
		return;
	}
	note->n = backtrace(frames, MAX_NOTED_FRAMES + OWN_FRAMES) - OWN_FRAMES;
	TRUTH_CHECK(note->n > 0);
	memcpy(note->frames, frames + OWN_FRAMES, (size_t)note->n * sizeof(*frames));
}

#ifdef OWN_STACK_WRAP
#define NAME(function) __wrap_##function
#define REAL(function) __real_##function
#else
#define NAME(function) function
#define REAL(function) __libc_##function
#endif

void *NAME(malloc)(size_t size);
void *NAME(calloc)(size_t n, size_t size);
void *NAME(realloc)(void *block, size_t size);
void *NAME(memalign)(size_t alignment, size_t size);
void *REAL(malloc)(size_t size);
void *REAL(calloc)(size_t n, size_t size);
void *REAL(realloc)(void *block, size_t size);
void *REAL(memalign)(size_t alignment, size_t size);

void *NAME(malloc)(size_t size)
{
	note("malloc", size, __builtin_return_address(0));
	return REAL(malloc)(size);
}

void *NAME(calloc)(size_t n, size_t size)
{
	note("calloc", n * size, __builtin_return_address(0));
	return REAL(calloc)(n, size);
}

void *NAME(realloc)(void *block, size_t size)
{
	note("realloc", size, __builtin_return_address(0));
	return REAL(realloc)(block, size);
}

void *NAME(memalign)(size_t alignment, size_t size)
{
	note("memalign", size, __builtin_return_address(0));
	return REAL(memalign)(alignment, size);
}

static bool is_same(const struct note *a, const struct note *b)
{
	return a->tid == b->tid && a->n == b->n && !strcmp(a->function, b->function) &&
	       !memcmp(a->frames, b->frames, (size_t)a->n * sizeof(*a->frames));
}

/* What has been noted, each stack once; it is forgotten then. */
static void report(void)
{
	int n = n_notes < MAX_NOTES ? n_notes : MAX_NOTES, n_kept = 0;
	const char *comma = "";

	for (int i = 0; i < n; i++) {
		int same = 0;

		while (same < n_kept && !is_same(&notes[same], &notes[i]))
			same++;
		if (same < n_kept) {
			notes[same].bytes += notes[i].bytes;
			notes[same].count++;
		} else {
			notes[n_kept++] = notes[i];
		}
	}
	truth_print("{\"lost\":%d,\"stacks\":[", n_notes - n);
	for (const struct note *note = notes; note < notes + n_kept; note++) {
		truth_print(
			"%s{\"tid\":%d,\"function\":\"%s\",\"count\":%d,\"bytes\":%zu,\"frames\":[",
			comma, note->tid, note->function, note->count, note->bytes);
		for (int i = 0; i < note->n; i++)
			truth_print("%s%lu", i ? "," : "", (unsigned long)note->frames[i]);
		truth_print("]}");
		comma = ",";
		if (truth_used > TRUTH_LINE_BYTES / 2)
			truth_flush();
	}
	truth_print("]}\n");
	truth_flush();
	n_notes = 0;
}

void *own_stack_keep(size_t size)
{
	static void *volatile last;

	last = malloc(size);
	return last;
}

void own_stack_serve(void (*work)(void))
{
	void *frames[2];

	/* The first time it loads the library that it takes. */
	backtrace(frames, 2);
	truth_ready();
	for (;;) {
		truth_expect("go");
		is_on = true;
		work();
		is_on = false;
		report();
	}
}
