// SPDX-License-Identifier: Apache-2.0
/*
 * A heap in a state that is known: blocks of mixed sizes, live, freed, freed with gaps, trimmed, mapped, in threads.
 *
 * heap_states STATE BLOCKS [THREADS]. It prints READY in that state. To `truth` it answers with the blocks that it holds,
 * their number by usable size, and what the allocator itself counts; `trim` gives memory back first; `half` frees
 * every second block; `churn` frees and allocates without a pause until `rest`. In the state `hole` a quarter of the blocks has no pages, as if swapped out.
 */
#include "truth.h"
#include <malloc.h>
#include <sys/mman.h>

#define MAX_CLASSES 4096
#define CHUNK_16M (16781312 - 4096) /* a Netty chunk and its header */

struct slot {
	void *block;
	size_t usable;
};

/* jemalloc's statistics, where it is the allocator. */
extern int mallctl(const char *name, void *old, size_t *old_bytes, void *new, size_t new_bytes)
	__attribute__((weak));

static struct slot *slots;
static long n_slots;
static pthread_barrier_t ready;
static volatile int churning;
static char answer[1 << 18];
static size_t used;

static struct {
	size_t usable;
	long count;
} classes[MAX_CLASSES];

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* 16 sizes of each order, never that of a thread's cache or of what the loader allocates for a thread. */
static size_t size_of(uint64_t *state)
{
	uint64_t pick = next_random(state) % 100;
	uint64_t step = next_random(state) % 16;

	if (pick < 60)
		return 24 + 16 * step - (step == 15 ? 16 : 0);
	if (pick < 90)
		return 1000 + 64 * step;
	if (pick < 99)
		return 4000 + 1024 * step;
	return 40000 + 4096 * step;
}

static void keep(struct slot *slot, size_t bytes)
{
	slot->block = malloc(bytes);
	slot->usable = malloc_usable_size(slot->block);
	memset(slot->block, 0x5a, bytes);
}

static void drop(struct slot *slot)
{
	free(slot->block);
	slot->block = NULL;
}

static void *fill(void *argument)
{
	long number = (long)argument;
	uint64_t state = 88172645463325252ull * (number + 1);
	struct slot *mine = slots + number * n_slots;

	for (long i = 0; i < n_slots; i++)
		keep(&mine[i], size_of(&state));
	pthread_barrier_wait(&ready);
	while (!churning || number)
		pause();
	return NULL;
}

static void *churn(void *argument)
{
	uint64_t state = 0x9e3779b97f4a7c15ull;

	(void)argument;
	while (churning) {
		struct slot *slot = &slots[next_random(&state) % n_slots];

		if (slot->block)
			drop(slot);
		keep(slot, size_of(&state));
	}
	return NULL;
}

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	used += vsnprintf(answer + used, sizeof(answer) - used, format, arguments);
	va_end(arguments);
}

static void print_truth(long n_all)
{
	long n_blocks = 0, n_bytes = 0;
	int n_classes = 0;

	for (long i = 0; i < n_all; i++) {
		int at = 0;

		if (!slots[i].block)
			continue;
		n_blocks++;
		n_bytes += slots[i].usable;
		while (at < n_classes && classes[at].usable != slots[i].usable)
			at++;
		if (at == n_classes)
			classes[n_classes++].usable = slots[i].usable;
		classes[at].count++;
	}
	used = 0;
	say("{\"n_blocks\": %ld, \"usable_bytes\": %ld, \"sizes\": {", n_blocks, n_bytes);
	for (int at = 0; at < n_classes; at++) {
		say("%s\"%zu\": %ld", at ? ", " : "", classes[at].usable, classes[at].count);
		classes[at].count = 0;
	}
	say("}");
	if (mallctl) {
		uint64_t epoch = 1;
		size_t allocated = 0, bytes = sizeof(epoch);

		mallctl("epoch", &epoch, &bytes, &epoch, bytes);
		bytes = sizeof(allocated);
		mallctl("stats.allocated", &allocated, &bytes, NULL, 0);
		say(", \"allocated\": %zu", allocated);
	}
#ifdef __GLIBC__
	struct mallinfo2 info = mallinfo2();

	say(", \"uordblks\": %zu, \"fordblks\": %zu, \"fsmblks\": %zu, \"hblks\": %zu, \"hblkhd\": %zu, \"arena\": %zu",
	    info.uordblks, info.fordblks, info.fsmblks, info.hblks, info.hblkhd, info.arena);
#endif
	say("}\n");
	if (write(1, answer, used) < 0)
		_exit(1);
}

int main(int argc, char **argv)
{
	const char *state_name = argc > 1 ? argv[1] : "live";
	long n_threads = argc > 3 ? atol(argv[3]) : 0, n_all;
	uint64_t state = 88172645463325252ull;
	static char ready_line[32], line[32];
	pthread_t thread;

	n_slots = argc > 2 ? atol(argv[2]) : 10000;
	n_all = n_slots * (n_threads ? n_threads : 1);
	slots = calloc(n_all + 1, sizeof(*slots));
	slots[n_all] = (struct slot){ slots, malloc_usable_size(slots) };
	n_all++;
	if (n_threads) {
		pthread_barrier_init(&ready, NULL, n_threads + 1);
		for (long i = 0; i < n_threads; i++)
			pthread_create(&thread, NULL, fill, (void *)i);
		pthread_barrier_wait(&ready);
	} else if (!strcmp(state_name, "big")) {
		for (long i = 0; i < n_slots; i++)
			keep(&slots[i], CHUNK_16M);
	} else {
		for (long i = 0; i < n_slots; i++)
			keep(&slots[i], size_of(&state));
		malloc(100000); /* holds the top down; never freed, not in the truth */
		if (!strcmp(state_name, "freed"))
			for (long i = 0; i < n_slots; i++)
				drop(&slots[i]);
		if (!strcmp(state_name, "gaps") || !strcmp(state_name, "trimmed"))
			for (long i = 0; i < n_slots; i++)
				if (i % 10)
					drop(&slots[i]);
		if (!strcmp(state_name, "hole")) {
			uintptr_t from = ((uintptr_t)slots[n_slots / 4].block + TRUTH_PAGE) &
					 -TRUTH_PAGE;
			uintptr_t to = (uintptr_t)slots[n_slots / 2].block & -TRUTH_PAGE;

			madvise((void *)from, to - from, MADV_DONTNEED);
		}
#ifdef __GLIBC__
		if (!strcmp(state_name, "trimmed"))
			malloc_trim(0);
#endif
	}
	if (write(1, ready_line, snprintf(ready_line, sizeof(ready_line), "READY %d\n", getpid())) <
	    0)
		return 1;
	for (size_t n = 0; read(0, line + n, 1) == 1;) {
		if (line[n] != '\n') {
			n = n + 1 < sizeof(line) ? n + 1 : n;
			continue;
		}
		line[n] = 0;
		n = 0;
#ifdef __GLIBC__
		if (!strcmp(line, "trim"))
			malloc_trim(0);
#endif
		if (!strcmp(line, "half"))
			for (long i = 0; i < n_slots; i += 2)
				drop(&slots[i]);
		if (!strcmp(line, "churn")) {
			churning = 1;
			pthread_create(&thread, NULL, churn, NULL);
		} else if (!strcmp(line, "rest")) {
			churning = 0;
			pthread_join(thread, NULL);
		} else if (!strcmp(line, "quit")) {
			break;
		}
		print_truth(n_all);
	}
	_exit(0);
}
