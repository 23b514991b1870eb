// SPDX-License-Identifier: Apache-2.0
/*
 * A program that brings its own malloc family, C23's free_sized and free_aligned_sized with it, and leaves its
 * malloc in every way but by a return: longjmp, longjmp out of a signal handler, pthread_exit, cancellation.
 *
 * Whatever was left behind, the next calls are counted, at any depth of the stack, and mappings made after it are the
 * program's. The truth carries "abandoned".
 */
#include "truth.h"
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>

#define N_ROUNDS 11
#define ROOM_BYTES (64ul << 20)

enum way { BY_RETURN, BY_LONGJMP, BY_SIGNAL, BY_EXIT, BY_CANCEL };

static char *room;
static size_t room_used;
static pthread_mutex_t room_lock = PTHREAD_MUTEX_INITIALIZER;
static __thread enum way way;
static __thread sigjmp_buf out;
static pthread_barrier_t inside;

void *malloc(size_t bytes);
void free(void *block);

/* One way or the other out of an allocator function, its frame still on the stack. */
__attribute__((noipa)) static void leave(void)
{
	enum way by = way;

	way = BY_RETURN;
	switch (by) {
	case BY_LONGJMP:
		siglongjmp(out, 1);
	case BY_SIGNAL:
		raise(SIGUSR1);
		break;
	case BY_EXIT:
		pthread_exit(NULL);
	case BY_CANCEL:
		pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, NULL);
		pthread_barrier_wait(&inside);
		for (;;)
			pause();
	default:
		break;
	}
}

static void *take(size_t alignment, size_t bytes)
{
	char *block;

	if (bytes > ROOM_BYTES / 2)
		return NULL;
	pthread_mutex_lock(&room_lock);
	if (!room) {
		room = mmap(NULL, ROOM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			    -1, 0);
		room_used = 64;
	}
	room_used = (room_used + sizeof(bytes) + alignment - 1) & -alignment;
	block = room + room_used;
	memcpy(block - sizeof(bytes), &bytes, sizeof(bytes));
	room_used += bytes;
	TRUTH_CHECK(room_used < ROOM_BYTES);
	pthread_mutex_unlock(&room_lock);
	return block;
}

SITE void *malloc(size_t bytes)
{
	if (way != BY_RETURN)
		leave();
	return take(16, bytes);
}

SITE void *calloc(size_t n, size_t bytes)
{
	return take(16, n * bytes);
}

SITE void *aligned_alloc(size_t alignment, size_t bytes)
{
	return take(alignment, bytes);
}

SITE void *realloc(void *old, size_t bytes)
{
	size_t old_bytes = 0;
	char *block;

	if (way != BY_RETURN)
		leave();
	block = take(16, bytes);
	if (old && block) {
		memcpy(&old_bytes, (char *)old - sizeof(old_bytes), sizeof(old_bytes));
		memcpy(block, old, old_bytes < bytes ? old_bytes : bytes);
	}
	return block;
}

SITE void free(void *block)
{
	if (block)
		*(volatile char *)block = 0;
}

SITE void free_sized(void *block, size_t bytes)
{
	TRUTH_CHECK(block && bytes);
	*(volatile char *)block = 1;
}

SITE void free_aligned_sized(void *block, size_t alignment, size_t bytes)
{
	TRUTH_CHECK(block && bytes && alignment);
	*(volatile char *)block = 2;
}

SITE struct block own_seed(long bytes)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(malloc((size_t)bytes), bytes, site);
}

SITE void own_after(void)
{
	truth_block(malloc(211), 211, TRUTH_HEAP());
}

/* Deeper in the stack than any call that was left behind. */
SITE void own_after_deep(int depth)
{
	volatile char ballast[256];

	memset((char *)ballast, depth, sizeof(ballast));
	if (depth)
		own_after_deep(depth - 1);
	else
		truth_block(malloc(223), 223, TRUTH_HEAP());
	ballast[0] = 1;
}

/* The program's own, right after an allocator call that never returned. */
SITE void own_map_after(void)
{
	volatile char ballast[512];
	void *address;

	memset((char *)ballast, 1, sizeof(ballast));
	address = mmap(NULL, 3 * TRUTH_PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TRUTH_CHECK(address != MAP_FAILED);
	truth_add(truth_at(__func__, "map"), 3 * TRUTH_PAGE);
	ballast[0] = 1;
}

SITE void own_jump_out(enum way by)
{
	TRUTH_HEAP();
	if (!sigsetjmp(out, 1)) {
		way = by;
		if (malloc(227))
			truth_fail("malloc returned");
	}
}

/* The block stays what it was: its realloc never came to an end. */
SITE void own_jump_out_of_realloc(struct block old)
{
	TRUTH_HEAP();
	if (!sigsetjmp(out, 1)) {
		way = BY_LONGJMP;
		if (realloc(old.address, 229))
			truth_fail("realloc returned");
	}
}

SITE void own_end_inside(enum way by)
{
	TRUTH_HEAP();
	way = by;
	if (malloc(233))
		truth_fail("malloc returned");
}

SITE void own_sized(void)
{
	struct truth_site *site = TRUTH_HEAP();
	void *first = malloc(239), *second = aligned_alloc(128, 241);

	truth_add(site, 239);
	truth_add(site, 241);
	free_sized(first, 239);
	truth_drop(site, 239);
	free_aligned_sized(second, 128, 241);
	truth_drop(site, 241);
}

static void on_signal(int number)
{
	(void)number;
	siglongjmp(out, 1);
}

static void *end_inside(void *argument)
{
	truth_name_thread("ends-inside");
	own_after();
	own_end_inside((enum way)(intptr_t)argument);
	return NULL;
}

static void run_thread(enum way by)
{
	pthread_t thread;

	TRUTH_CHECK(!pthread_create(&thread, NULL, end_inside, (void *)(intptr_t)by));
	if (by == BY_CANCEL) {
		pthread_barrier_wait(&inside);
		TRUTH_CHECK(!pthread_cancel(thread));
	}
	TRUTH_CHECK(!pthread_join(thread, NULL));
}

static void run_once(void)
{
	own_jump_out(BY_LONGJMP);
	own_map_after();
	own_after_deep(3);
	own_jump_out(BY_LONGJMP);
	own_after_deep(9);
	own_jump_out(BY_SIGNAL);
	own_after();
	own_jump_out_of_realloc(own_seed(251));
	own_after_deep(5);
	own_jump_out_of_realloc(own_seed(257));
	own_after();
	own_sized();
}

int main(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	sigaction(SIGUSR1, &action, NULL);
	pthread_barrier_init(&inside, NULL, 2);
	free(malloc(1));
	truth_start();
	for (int i = 0; i < N_ROUNDS; i++)
		run_once();
	for (int i = 0; i < 3; i++) {
		run_thread(BY_EXIT);
		run_thread(BY_CANCEL);
	}
	own_after();
	truth_report(false, 0, "\"abandoned\":61,");
	truth_stay();
}
