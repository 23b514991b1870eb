// SPDX-License-Identifier: Apache-2.0
/*
 * Does what it is told, one call after the other, each in the thread that is named: for random sequences.
 *
 * A line is a sequence of calls `THREAD LETTER A B C D;` in decimal; the answer is a line with 1 for each call that
 * succeeded and 0 for each that failed. Blocks are known by a slot, pages by their number in an arena of 64
 * pages at a place that the kernel gives to nobody by itself. Letters are those of the table below.
 */
#include "truth.h"
#include <malloc.h>
#include <semaphore.h>
#include <sys/mman.h>

#define N_THREADS 4
#define N_SLOTS 64
#define ARENA ((char *)0x200000000000)
#define LINE_BYTES (1 << 20)
#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE)

static void *slots[N_SLOTS];
static long argument[4];
static char letter;
static bool succeeded;
static sem_t work[N_THREADS], done;
static char line[LINE_BYTES];

static char *page(long number)
{
	return ARENA + number * TRUTH_PAGE;
}

static bool keep(void *block)
{
	slots[argument[0]] = block;
	return block != NULL;
}

/* A failed realloc leaves the block; one to zero bytes returns nothing and has freed it. */
static bool replace(void *block, bool to_nothing)
{
	if (block || to_nothing)
		slots[argument[0]] = block;
	return block != NULL;
}

#define SCRIPT(name) SITE bool script_##name(long a, long b, long c, long d)
#define UNUSED(x) ((void)(x))

SCRIPT(malloc)
{
	UNUSED(a), UNUSED(c), UNUSED(d);
	return keep(malloc((size_t)b));
}

SCRIPT(calloc)
{
	UNUSED(a), UNUSED(d);
	return keep(calloc((size_t)b, (size_t)c));
}

SCRIPT(realloc)
{
	UNUSED(c), UNUSED(d);
	return replace(realloc(slots[a], (size_t)b), slots[a] && !b);
}

SCRIPT(reallocarray)
{
	UNUSED(d);
	return replace(reallocarray(slots[a], (size_t)b, (size_t)c), slots[a] && (!b || !c));
}

SCRIPT(free)
{
	UNUSED(b), UNUSED(c), UNUSED(d);
	free(slots[a]);
	slots[a] = NULL;
	return true;
}

SCRIPT(memalign)
{
	UNUSED(a), UNUSED(d);
	return keep(memalign((size_t)b, (size_t)c));
}

SCRIPT(posix_memalign)
{
	UNUSED(d);
	return !posix_memalign(&slots[a], (size_t)b, (size_t)c);
}

SCRIPT(valloc)
{
	UNUSED(a), UNUSED(c), UNUSED(d);
	return keep(valloc((size_t)b));
}

SCRIPT(strdup)
{
	static char text[4096];

	UNUSED(a), UNUSED(c), UNUSED(d);
	memset(text, 'x', (size_t)b);
	text[b] = '\0';
	return keep(strdup(text));
}

SCRIPT(mmap)
{
	UNUSED(d);
	return mmap(page(a), (size_t)(b * TRUTH_PAGE), (int)c, ANONYMOUS | MAP_FIXED, -1, 0) !=
	       MAP_FAILED;
}

SCRIPT(noreplace)
{
	UNUSED(d);
	return mmap(page(a), (size_t)(b * TRUTH_PAGE), (int)c, ANONYMOUS | MAP_FIXED_NOREPLACE, -1,
		    0) != MAP_FAILED;
}

SCRIPT(munmap)
{
	UNUSED(c), UNUSED(d);
	return !munmap(page(a), (size_t)(b * TRUTH_PAGE));
}

SCRIPT(mprotect)
{
	UNUSED(d);
	return !mprotect(page(a), (size_t)(b * TRUTH_PAGE), (int)c);
}

SCRIPT(move)
{
	return mremap(page(a), (size_t)(b * TRUTH_PAGE), (size_t)(d * TRUTH_PAGE),
		      MREMAP_MAYMOVE | MREMAP_FIXED, page(c)) != MAP_FAILED;
}

SCRIPT(dontunmap)
{
	UNUSED(d);
	return mremap(page(a), (size_t)(b * TRUTH_PAGE), (size_t)(b * TRUTH_PAGE),
		      MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, page(c)) != MAP_FAILED;
}

SCRIPT(resize)
{
	UNUSED(d);
	return mremap(page(a), (size_t)(b * TRUTH_PAGE), (size_t)(c * TRUTH_PAGE), 0) != MAP_FAILED;
}

SCRIPT(sbrk)
{
	UNUSED(b), UNUSED(c), UNUSED(d);
	return sbrk(a) != (void *)-1;
}

static const struct {
	char letter;
	bool (*call)(long a, long b, long c, long d);
} table[] = {
	{ 'm', script_malloc },		{ 'c', script_calloc },	   { 'r', script_realloc },
	{ 'R', script_reallocarray },	{ 'f', script_free },	   { 'a', script_memalign },
	{ 'p', script_posix_memalign }, { 'v', script_valloc },	   { 'd', script_strdup },
	{ 'M', script_mmap },		{ 'N', script_noreplace }, { 'U', script_munmap },
	{ 'P', script_mprotect },	{ 'X', script_move },	   { 'D', script_dontunmap },
	{ 'S', script_resize },		{ 'B', script_sbrk },
};

static void *serve(void *thread)
{
	int number = (int)(intptr_t)thread;
	char name[16];

	snprintf(name, sizeof(name), "script-%d", number);
	truth_name_thread(name);
	/* Makes this thread's arena and caches before the trace begins. */
	free(malloc(1));
	sem_post(&done);
	for (;;) {
		sem_wait(&work[number]);
		succeeded = false;
		for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++)
			if (table[i].letter == letter)
				succeeded = table[i].call(argument[0], argument[1], argument[2],
							  argument[3]);
		sem_post(&done);
	}
	return NULL;
}

static bool read_line(void)
{
	size_t used = 0;

	for (;;) {
		ssize_t n = read(STDIN_FILENO, line + used, LINE_BYTES - 1 - used);

		if (n <= 0)
			return false;
		used += (size_t)n;
		TRUTH_CHECK(used < LINE_BYTES - 1);
		if (line[used - 1] == '\n') {
			line[used] = '\0';
			return true;
		}
	}
}

static void run_line(void)
{
	long thread;
	int used;

	for (const char *at = line; *at != '\n'; at += used) {
		if (sscanf(at, "%ld %c %ld %ld %ld %ld;%n", &thread, &letter, &argument[0],
			   &argument[1], &argument[2], &argument[3], &used) != 6)
			truth_fail("line not understood");
		sem_post(&work[thread]);
		sem_wait(&done);
		truth_print("%d", succeeded);
	}
	truth_print("\n");
	truth_flush();
}

int main(void)
{
	/* Makes the heap of the program break, so that it is nobody's allocator's. */
	TRUTH_CHECK(sbrk(TRUTH_PAGE) != (void *)-1);
	sem_init(&done, 0, 0);
	for (long i = 0; i < N_THREADS; i++) {
		pthread_t thread;

		sem_init(&work[i], 0, 0);
		TRUTH_CHECK(!pthread_create(&thread, NULL, serve, (void *)(intptr_t)i));
		sem_wait(&done);
	}
	truth_ready();
	while (read_line())
		run_line();
	_exit(0);
}
