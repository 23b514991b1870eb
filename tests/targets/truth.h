/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The protocol that every target speaks, and the ledger it keeps of its own allocations.
 *
 * A target prints `READY <pid>`, waits for the line `go` on stdin, does its work, prints one line of
 * JSON truth, and then takes further commands until `quit` or the end of stdin, which ends it at once.
 *
 * {"complete": true, "unmatched_frees": 0, "sites": [{"name", "function", "thread", "tid", "kind",
 *   "outstanding_bytes", "outstanding_count", "allocated_bytes", "allocated_count", "reserved_bytes"}]}
 *
 * A site is one thread in one SITE function: that function's frame is in the stack of each of the site's
 * allocations and of no other's. A site that only fails or frees stands there with zeros. Keys that the
 * interface leaves open for a site are left out of it. `complete` says that the target allocates nothing
 * beside its sites between `go` and the truth; so nothing here may allocate: no stdio, static buffers only.
 */
#ifndef TRUTH_H
#define TRUTH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Keeps a function a frame of its own, called with the arguments that the source shows. */
#if defined(__clang__)
#define SITE __attribute__((noinline, visibility("default")))
#else
#define SITE __attribute__((noipa, visibility("default")))
#endif
#define HELPER __attribute__((unused)) static

/* Truth about part of a site: what the interface says nothing exact about is not printed. */
#define TRUTH_NO_ALLOCATED 1u
#define TRUTH_NO_COUNT 2u

#define TRUTH_MAX_SITES 4096
#define TRUTH_LINE_BYTES (2 << 20)
#define TRUTH_PAGE 4096L

struct truth_site {
	const char *name;
	const char *function;
	const char *kind;
	char thread[16];
	int tid;
	unsigned int omit;
	long allocated_bytes;
	long allocated_count;
	long freed_bytes;
	long freed_count;
	long reserved_bytes;
};

static struct truth_site truth_sites[TRUTH_MAX_SITES];
static int truth_n_sites;
static pthread_mutex_t truth_lock = PTHREAD_MUTEX_INITIALIZER;
static char truth_line[TRUTH_LINE_BYTES];
static size_t truth_used;

HELPER int truth_tid(void)
{
	return (int)syscall(SYS_gettid);
}

HELPER void truth_fail(const char *what)
{
	dprintf(STDERR_FILENO, "target: %s\n", what);
	_exit(70);
}

#define TRUTH_CHECK(condition)                  \
	do {                                    \
		if (!(condition))               \
			truth_fail(#condition); \
	} while (0)

/* The site of this thread in `function`; made when first asked for. */
HELPER struct truth_site *truth_at(const char *function, const char *kind)
{
	int tid = truth_tid();
	struct truth_site *site = NULL;

	pthread_mutex_lock(&truth_lock);
	for (int i = 0; i < truth_n_sites && !site; i++)
		if (truth_sites[i].tid == tid && !strcmp(truth_sites[i].function, function))
			site = &truth_sites[i];
	if (!site) {
		TRUTH_CHECK(truth_n_sites < TRUTH_MAX_SITES);
		site = &truth_sites[truth_n_sites++];
		site->name = site->function = function;
		site->kind = kind;
		site->tid = tid;
		prctl(PR_GET_NAME, site->thread);
	}
	pthread_mutex_unlock(&truth_lock);
	return site;
}

#define TRUTH_HEAP() truth_at(__func__, "heap")
#define TRUTH_MAP() truth_at(__func__, "map")
#define TRUTH_BRK() truth_at(__func__, "brk")

/* Any thread may free what another one allocated: the counters are atomic. */
HELPER void truth_add(struct truth_site *site, long bytes)
{
	__atomic_fetch_add(&site->allocated_bytes, bytes, __ATOMIC_RELAXED);
	__atomic_fetch_add(&site->allocated_count, 1, __ATOMIC_RELAXED);
}

/* Part of an allocation is gone; its count stays. */
HELPER void truth_cut(struct truth_site *site, long bytes)
{
	__atomic_fetch_add(&site->freed_bytes, bytes, __ATOMIC_RELAXED);
}

HELPER void truth_drop(struct truth_site *site, long bytes)
{
	truth_cut(site, bytes);
	__atomic_fetch_add(&site->freed_count, 1, __ATOMIC_RELAXED);
}

/* One block and where it came from. */
struct block {
	void *address;
	long bytes;
	struct truth_site *site;
};

HELPER struct block truth_block(void *address, long bytes, struct truth_site *site)
{
	struct block block;

	if (!address && bytes)
		truth_fail(site->function);
	truth_add(site, bytes);
	block.address = address;
	block.bytes = bytes;
	block.site = site;
	return block;
}

HELPER void truth_release(struct block block)
{
	free(block.address);
	truth_drop(block.site, block.bytes);
}

/* Append to the line of truth that is being built. */
__attribute__((format(printf, 1, 2), unused)) static void truth_print(const char *format, ...)
{
	va_list arguments;
	int n;

	va_start(arguments, format);
	n = vsnprintf(truth_line + truth_used, sizeof(truth_line) - truth_used, format, arguments);
	va_end(arguments);
	TRUTH_CHECK(n >= 0 && (size_t)n < sizeof(truth_line) - truth_used);
	truth_used += (size_t)n;
}

HELPER void truth_flush(void)
{
	for (size_t done = 0; done < truth_used;) {
		ssize_t n = write(STDOUT_FILENO, truth_line + done, truth_used - done);

		TRUTH_CHECK(n > 0);
		done += (size_t)n;
	}
	truth_used = 0;
}

HELPER void truth_print_site(const struct truth_site *site)
{
	truth_print(
		"{\"name\":\"%s\",\"function\":\"%s\",\"thread\":\"%s\",\"tid\":%d,\"kind\":\"%s\",",
		site->name, site->function, site->thread, site->tid, site->kind);
	if (!(site->omit & TRUTH_NO_COUNT))
		truth_print("\"outstanding_count\":%ld,",
			    site->allocated_count - site->freed_count);
	if (!(site->omit & TRUTH_NO_ALLOCATED))
		truth_print("\"allocated_bytes\":%ld,\"allocated_count\":%ld,",
			    site->allocated_bytes, site->allocated_count);
	if (!strcmp(site->kind, "map"))
		truth_print("\"reserved_bytes\":%ld,", site->reserved_bytes);
	truth_print("\"outstanding_bytes\":%ld}",
		    site->allocated_bytes - site->freed_bytes - site->reserved_bytes);
}

/* Print the truth; `extra` is more JSON members, each with a comma after it, or "". */
HELPER void truth_report(bool complete, long unmatched_frees, const char *extra)
{
	truth_print("{%s\"complete\":%s,\"unmatched_frees\":%ld,\"sites\":[", extra,
		    complete ? "true" : "false", unmatched_frees);
	for (int i = 0; i < truth_n_sites; i++) {
		if (i)
			truth_print(",");
		truth_print_site(&truth_sites[i]);
	}
	truth_print("]}\n");
	truth_flush();
}

HELPER void truth_ready(void)
{
	truth_print("READY %d\n", (int)getpid());
	truth_flush();
}

/* The next command, without its newline. Ends the process at `quit` and at the end of stdin. */
HELPER const char *truth_command(void)
{
	static char line[128];
	size_t used = 0;

	for (;;) {
		char byte;
		ssize_t n = read(STDIN_FILENO, &byte, 1);

		if (n <= 0)
			_exit(0);
		if (byte == '\n')
			break;
		TRUTH_CHECK(used + 1 < sizeof(line));
		line[used++] = byte;
	}
	line[used] = '\0';
	if (!strcmp(line, "quit"))
		_exit(0);
	return line;
}

/* Wait for one certain command. */
HELPER void truth_expect(const char *command)
{
	if (strcmp(truth_command(), command))
		truth_fail("unexpected command");
}

/* Say READY and wait for `go`. */
HELPER void truth_start(void)
{
	truth_ready();
	truth_expect("go");
}

/* Stay until `quit` or the end of stdin. */
HELPER void truth_stay(void)
{
	for (;;)
		truth_command();
}

HELPER void truth_name_thread(const char *name)
{
	prctl(PR_SET_NAME, name);
}

/* Argument `index` as a number, or `otherwise`. */
HELPER long truth_argument(int argc, char **argv, int index, long otherwise)
{
	return argc > index ? atol(argv[index]) : otherwise;
}

#endif
