// SPDX-License-Identifier: Apache-2.0
/*
 * Who gives address space back: whole mappings, their heads, tails and middles, several at once, over holes, nothing at
 * all, and calls that fail; what another thread mapped, and what was there before the trace. Two threads take turns.
 * Beside them the C library unmaps stacks of threads, and the allocator its large blocks.
 *
 * The truth carries "givers": {"function", "tid", "thread", "calls", "freed_bytes", "other_threads_bytes",
 * "reserved_bytes", "older_bytes"}, and what the C library and the allocator gave back: "stack_bytes" and "n_stacks",
 * "block_bytes" and "n_blocks".
 */
#include "truth.h"
#include <errno.h>
#include <malloc.h>
#include <sys/mman.h>
#include <sys/shm.h>

#define P TRUTH_PAGE
#define RW (PROT_READ | PROT_WRITE)
#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS)
#define STACK_BYTES (61L << 20) /* more than glibc keeps of all threads together */
#define N_STACKS 7
#define BLOCK_BYTES (2003L * 1024)
#define N_BLOCKS 17
#define MAX_GIVERS 64
#define MAX_OLDER 16

struct giver {
	const char *function;
	char thread[16];
	int tid;
	long calls;
	long freed;
	long others;
	long reserved;
	long older;
};

static struct giver givers[MAX_GIVERS];
static int n_givers;
static char *older[2][MAX_OLDER];
static char *handed[2];
static pthread_barrier_t turn;

static struct giver *giver_at(const char *function)
{
	int tid = truth_tid();
	struct giver *giver = NULL;

	pthread_mutex_lock(&truth_lock);
	for (int i = 0; i < n_givers && !giver; i++)
		if (givers[i].tid == tid && !strcmp(givers[i].function, function))
			giver = &givers[i];
	if (!giver) {
		TRUTH_CHECK(n_givers < MAX_GIVERS);
		giver = &givers[n_givers++];
		giver->function = function;
		giver->tid = tid;
		prctl(PR_GET_NAME, giver->thread);
	}
	pthread_mutex_unlock(&truth_lock);
	return giver;
}

static void gave(const char *function, long pages)
{
	struct giver *giver = giver_at(function);

	giver->calls++;
	giver->freed += pages * P;
}

SITE char *maps(long pages, int access)
{
	char *start = mmap(NULL, (size_t)(pages * P), access, ANONYMOUS, -1, 0);

	TRUTH_CHECK(start != MAP_FAILED);
	return start;
}

/* A place of many pages in which nothing is mapped: no other thread maps meanwhile. */
SITE char *room(long pages)
{
	char *start = maps(pages, PROT_NONE);

	TRUTH_CHECK(!munmap(start, (size_t)(pages * P)));
	giver_at(__func__)->calls++;
	giver_at(__func__)->reserved += pages * P;
	return start;
}

static char *maps_at(char *place, long pages, int access)
{
	TRUTH_CHECK(mmap(place, (size_t)(pages * P), access, ANONYMOUS | MAP_FIXED, -1, 0) ==
		    place);
	return place;
}

SITE void gives_whole(char *start)
{
	TRUTH_CHECK(!munmap(start, 5 * P));
	gave(__func__, 5);
}

SITE void gives_head(char *start)
{
	TRUTH_CHECK(!munmap(start, 3 * P));
	gave(__func__, 3);
}

SITE void gives_tail(char *start)
{
	TRUTH_CHECK(!munmap(start + 11 * P, 2 * P));
	gave(__func__, 2);
}

/* Not a whole number of pages: rounded up. */
SITE void gives_middle(char *start)
{
	TRUTH_CHECK(!munmap(start + 5 * P, 2 * P + 1));
	gave(__func__, 3);
}

/* By the system call, without the library's function. */
SITE void gives_bare(char *start)
{
	TRUTH_CHECK(!syscall(SYS_munmap, start, 7 * P));
	gave(__func__, 7);
}

/* 3 pages, a hole of 4, 5 without access, 7, of which the last 2 stay. */
SITE void gives_across(char *start)
{
	TRUTH_CHECK(!munmap(start, 17 * P));
	gave(__func__, 3 + 5);
	giver_at(__func__)->reserved += 5 * P;
}

SITE void gives_nothing(char *start)
{
	TRUTH_CHECK(!munmap(start, 17 * P));
	gave(__func__, 0);
}

SITE void fails_to_give(char *start)
{
	giver_at(__func__);
	TRUTH_CHECK(munmap(start + 1, 5 * P) && errno == EINVAL);
	TRUTH_CHECK(munmap(start, 0) && errno == EINVAL);
}

SITE void gives_others(char *start)
{
	TRUTH_CHECK(!munmap(start, 19 * P));
	gave(__func__, 19);
	giver_at(__func__)->others += 19 * P;
}

SITE void gives_older(char *start)
{
	TRUTH_CHECK(!munmap(start, 23 * P));
	gave(__func__, 0);
	giver_at(__func__)->older += 23 * P;
}

SITE void gives_segment(void)
{
	int id = shmget(IPC_PRIVATE, 2 * P + 1, IPC_CREAT | 0600);
	char *start = shmat(id, NULL, 0);

	TRUTH_CHECK(start != MAP_FAILED && !shmctl(id, IPC_RMID, NULL));
	TRUTH_CHECK(shmdt(start + P) && errno == EINVAL);
	TRUTH_CHECK(!shmdt(start));
	gave(__func__, 3);
}

/* What it grows, moves, or fails to cut is not given back. */
SITE void cuts(char *start)
{
	TRUTH_CHECK(mremap(start, 13 * P, 6 * P, 0) == start);
	gave(__func__, 7);
	start = mremap(start, 6 * P, 29 * P, MREMAP_MAYMOVE);
	TRUTH_CHECK(start != MAP_FAILED);
	TRUTH_CHECK(mremap(start + 1, 29 * P, P, 0) == MAP_FAILED && errno == EINVAL);
}

static void give_all(int thread)
{
	char *place, *start;

	gives_whole(maps(5, RW));
	start = maps(13, RW);
	gives_head(start);
	gives_tail(start);
	gives_middle(start);
	gives_bare(maps(7, RW));
	place = room(19);
	maps_at(place, 3, RW);
	maps_at(place + 7 * P, 5, PROT_NONE);
	maps_at(place + 12 * P, 7, RW);
	gives_across(place);
	gives_nothing(place);
	fails_to_give(place + 17 * P);
	gives_segment();
	cuts(maps(13, RW));
	handed[thread] = maps(19, RW);
}

static void *nothing(void *argument)
{
	return argument;
}

/* Both ways in which a thread can go: the C library unmaps its stack. */
SITE void ends_threads(void)
{
	pthread_attr_t attributes;
	pthread_t thread;

	TRUTH_CHECK(!pthread_attr_init(&attributes) &&
		    !pthread_attr_setstacksize(&attributes, STACK_BYTES));
	for (int i = 0; i < N_STACKS; i++) {
		TRUTH_CHECK(!pthread_create(&thread, &attributes, nothing, NULL));
		TRUTH_CHECK(!pthread_join(thread, NULL));
	}
}

SITE void frees_blocks(void)
{
	for (int i = 0; i < N_BLOCKS; i++)
		free(malloc(BLOCK_BYTES));
}

static void run(int thread, long rounds)
{
	for (int t = 0; t < 2; t++) {
		pthread_barrier_wait(&turn);
		if (t != thread)
			continue;
		for (long i = 0; i < rounds; i++)
			give_all(thread);
		for (long i = 0; i < MAX_OLDER - 3 - thread; i++)
			gives_older(older[thread][i]);
	}
	pthread_barrier_wait(&turn);
	if (thread == 0)
		gives_others(handed[1]);
	pthread_barrier_wait(&turn);
	if (thread == 1)
		gives_others(handed[0]);
	pthread_barrier_wait(&turn);
}

static void *other(void *argument)
{
	truth_name_thread("other");
	for (int i = 0; i < MAX_OLDER; i++)
		older[1][i] = maps(23, RW);
	pthread_barrier_wait(&turn);
	pthread_barrier_wait(&turn);
	run(1, 103);
	pthread_barrier_wait(&turn);
	return argument;
}

static void print_givers(void)
{
	truth_print(
		"{\"n_stacks\":%d,\"stack_bytes\":%ld,\"n_blocks\":%d,\"block_bytes\":%ld,\"givers\":[",
		N_STACKS, STACK_BYTES, N_BLOCKS, BLOCK_BYTES);
	for (int i = 0; i < n_givers; i++)
		truth_print("%s{\"function\":\"%s\",\"tid\":%d,\"thread\":\"%s\",\"calls\":%ld,"
			    "\"freed_bytes\":%ld,\"other_threads_bytes\":%ld,"
			    "\"reserved_bytes\":%ld,\"older_bytes\":%ld}",
			    i ? "," : "", givers[i].function, givers[i].tid, givers[i].thread,
			    givers[i].calls, givers[i].freed, givers[i].others, givers[i].reserved,
			    givers[i].older);
	truth_print("]}\n");
	truth_flush();
}

int main(void)
{
	pthread_t thread;

#ifdef M_MMAP_THRESHOLD
	/* A threshold of its own choice glibc would move. */
	TRUTH_CHECK(mallopt(M_MMAP_THRESHOLD, 128 << 10));
#endif
	pthread_barrier_init(&turn, NULL, 2);
	TRUTH_CHECK(!pthread_create(&thread, NULL, other, NULL));
	for (int i = 0; i < MAX_OLDER; i++)
		older[0][i] = maps(23, RW);
	pthread_barrier_wait(&turn);
	truth_start();
	pthread_barrier_wait(&turn);
	run(0, 101);
	ends_threads();
	frees_blocks();
	print_givers();
	truth_stay();
}
