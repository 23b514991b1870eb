// SPDX-License-Identifier: Apache-2.0
/*
 * Every way to allocate, resize and free, and every way that fails, in four named workers and main.
 * Each thread multiplies its counts by its own prime, so that no two sites have the same totals.
 *
 * Threads exist and blocks that are later freed unmatched are allocated before READY. Sizes are prime.
 */
#include "truth.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>

#define N_THREADS 5
#define N_BEFORE 3
/* More than PTRDIFF_MAX together with any header: no allocator grants it, no compiler may see it. */
static volatile size_t impossible = PTRDIFF_MAX;
static const long primes[N_THREADS] = { 2, 3, 5, 7, 11 };
static const char *const names[N_THREADS] = { "battery", "order-cache", "chunk-pool", "gzip-writer",
					      "audit-log" };

static pthread_barrier_t started, handed_over, finished;
static void *before[N_THREADS][N_BEFORE];
static void *before_realloc[N_THREADS];
static struct block handed[N_THREADS];
static long unmatched_frees;

static void keep(struct block block)
{
	/* Kept by the truth alone; a written byte makes it a block the program means to use. */
	if (block.bytes)
		*(volatile char *)block.address = 1;
}

/* ------ malloc ------ */

SITE struct block heap_malloc(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(malloc(997), 997, site);
}

SITE struct block heap_malloc_freed(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(malloc(499), 499, site);
}

SITE struct block heap_malloc_zero(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(malloc(0), 0, site);
}

SITE void heap_malloc_impossible(void)
{
	TRUTH_HEAP();
	TRUTH_CHECK(!malloc(impossible));
}

/* Above glibc's mmap threshold of 128 KiB: the allocator's own mmap must not be seen. */
SITE struct block heap_large(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(malloc(131101), 131101, site);
}

SITE struct block heap_large_freed(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(malloc(262147), 262147, site);
}

SITE struct block heap_handed_over(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(malloc(877), 877, site);
}

SITE struct block heap_strdup(const char *text)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(strdup(text), (long)strlen(text) + 1, site);
}

/* ------ calloc ------ */

SITE struct block heap_calloc(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(calloc(13, 71), 13 * 71, site);
}

SITE void heap_calloc_overflow(void)
{
	TRUTH_HEAP();
	TRUTH_CHECK(!calloc(impossible, 3));
}

/* ------ realloc: the block belongs to the site of the last call that succeeded ------ */

SITE struct block heap_realloc_seed(long bytes)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(malloc((size_t)bytes), bytes, site);
}

static struct block moved(struct block old, void *address, long bytes, struct truth_site *site)
{
	truth_drop(old.site, old.bytes);
	return truth_block(address, bytes, site);
}

SITE struct block heap_realloc_grow(struct block old)
{
	struct truth_site *site = TRUTH_HEAP();

	return moved(old, realloc(old.address, 10007), 10007, site);
}

SITE struct block heap_realloc_shrink(struct block old)
{
	struct truth_site *site = TRUTH_HEAP();

	return moved(old, realloc(old.address, 53), 53, site);
}

/* 1009 bytes lie in a chunk of 1016 usable bytes: 1013 fit without moving. */
SITE struct block heap_realloc_in_place(struct block old)
{
	struct truth_site *site = TRUTH_HEAP();

	return moved(old, realloc(old.address, 1013), 1013, site);
}

/* Both sizes are above the mmap threshold: glibc uses mremap inside. */
SITE struct block heap_realloc_remap(struct block old)
{
	struct truth_site *site = TRUTH_HEAP();

	return moved(old, realloc(old.address, 524309), 524309, site);
}

SITE struct block heap_realloc_null(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(realloc(NULL, 607), 607, site);
}

SITE void heap_realloc_impossible(struct block old)
{
	TRUTH_HEAP();
	TRUTH_CHECK(!realloc(old.address, impossible));
}

#ifdef __GLIBC__
SITE void heap_realloc_zero(struct block old)
{
	struct truth_site *site = TRUTH_HEAP();
	void *left = realloc(old.address, 0);

	truth_drop(old.site, old.bytes);
	/* mimalloc gives a block of no bytes. */
	if (left) {
		truth_add(site, 0);
		free(left);
		truth_drop(site, 0);
	}
}
#endif

/* A block from before the trace: what is taken is not known, what is given is. */
SITE struct block heap_realloc_unknown(void *old)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(realloc(old, 2003), 2003, site);
}

SITE struct block heap_reallocarray(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(reallocarray(NULL, 17, 19), 17 * 19, site);
}

SITE void heap_reallocarray_overflow(struct block old)
{
	TRUTH_HEAP();
	TRUTH_CHECK(!reallocarray(old.address, impossible, 3));
}

/* ------ aligned ------ */

SITE struct block heap_posix_memalign(void)
{
	struct truth_site *site = TRUTH_HEAP();
	void *address = NULL;

	TRUTH_CHECK(!posix_memalign(&address, 64, 463));
	return truth_block(address, 463, site);
}

/* The pointer is left as it was: here at a block that lives, which must not be taken for a new one. */
SITE void heap_posix_memalign_bad_alignment(struct block alive)
{
	void *address = alive.address;

	TRUTH_HEAP();
	TRUTH_CHECK(posix_memalign(&address, 3, 467) == EINVAL);
}

SITE void heap_posix_memalign_impossible(struct block alive)
{
	void *address = alive.address;

	TRUTH_HEAP();
	TRUTH_CHECK(posix_memalign(&address, 64, impossible) == ENOMEM);
}

SITE struct block heap_aligned_alloc(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(aligned_alloc(128, 521), 521, site);
}

SITE struct block heap_memalign(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(memalign(256, 541), 541, site);
}

#ifdef __GLIBC__
SITE struct block heap_valloc(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(valloc(311), 311, site);
}

/* Asked for 313 bytes; that glibc rounds it up to a page is its own business. */
SITE struct block heap_pvalloc(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(pvalloc(313), 313, site);
}
#endif

static void run_realloc(void)
{
	struct block seed;

	keep(heap_realloc_grow(heap_realloc_seed(101)));
	keep(heap_realloc_shrink(heap_realloc_seed(10007)));
	keep(heap_realloc_in_place(heap_realloc_seed(1009)));
	keep(heap_realloc_remap(heap_realloc_seed(262147)));
	keep(heap_realloc_null());
#ifdef __GLIBC__
	heap_realloc_zero(heap_realloc_seed(103));
#endif
	seed = heap_realloc_seed(107);
	heap_realloc_impossible(seed);
	heap_reallocarray_overflow(seed);
	heap_posix_memalign_bad_alignment(seed);
	heap_posix_memalign_impossible(seed);
	keep(seed);
	keep(heap_reallocarray());
}

static void run_heap(int thread)
{
	for (long i = 0; i < primes[thread]; i++) {
		keep(heap_malloc());
		truth_release(heap_malloc_freed());
		keep(heap_large());
		truth_release(heap_large_freed());
		keep(heap_strdup("forty-two characters make 43 bytes of copy"));
		keep(heap_calloc());
		run_realloc();
		keep(heap_posix_memalign());
		keep(heap_aligned_alloc());
		keep(heap_memalign());
#ifdef __GLIBC__
		keep(heap_valloc());
		keep(heap_pvalloc());
#endif
	}
	keep(heap_malloc_zero());
	heap_malloc_impossible();
	heap_calloc_overflow();
	free(NULL);
	keep(heap_realloc_unknown(before_realloc[thread]));
	for (int i = 0; i < N_BEFORE; i++) {
		free(before[thread][i]);
		__atomic_fetch_add(&unmatched_frees, 1, __ATOMIC_RELAXED);
	}
}

/* ------ address space; sizes in pages ------ */

#define RW (PROT_READ | PROT_WRITE)
#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS)

static char *mapped(void *address, long pages, struct truth_site *site)
{
	if (address == MAP_FAILED)
		truth_fail(site->function);
	truth_add(site, pages * TRUTH_PAGE);
	return (char *)address;
}

static void unmap(char *address, long pages)
{
	TRUTH_CHECK(!munmap(address, (size_t)(pages * TRUTH_PAGE)));
}

/* 4097 bytes are two pages. */
SITE void map_odd(void)
{
	mapped(mmap(NULL, 4097, RW, ANONYMOUS, -1, 0), 2, TRUTH_MAP());
}

SITE void map_raw(void)
{
	long address = syscall(SYS_mmap, NULL, 3 * TRUTH_PAGE, RW, ANONYMOUS, -1, 0L);

	mapped((void *)address, 3, TRUTH_MAP());
}

SITE char *map_pages_freed(void)
{
	return mapped(mmap(NULL, 5 * TRUTH_PAGE, RW, ANONYMOUS, -1, 0), 5, TRUTH_MAP());
}

SITE void map_head_cut(void)
{
	struct truth_site *site = TRUTH_MAP();
	char *start = mapped(mmap(NULL, 7 * TRUTH_PAGE, RW, ANONYMOUS, -1, 0), 7, site);

	unmap(start, 2);
	truth_cut(site, 2 * TRUTH_PAGE);
}

SITE void map_middle_cut(void)
{
	struct truth_site *site = TRUTH_MAP();
	char *start = mapped(mmap(NULL, 11 * TRUTH_PAGE, RW, ANONYMOUS, -1, 0), 11, site);

	unmap(start + 5 * TRUTH_PAGE, 3);
	truth_cut(site, 3 * TRUTH_PAGE);
}

SITE void map_tail_cut(void)
{
	struct truth_site *site = TRUTH_MAP();
	char *start = mapped(mmap(NULL, 13 * TRUTH_PAGE, RW, ANONYMOUS, -1, 0), 13, site);

	unmap(start + 11 * TRUTH_PAGE, 2);
	truth_cut(site, 2 * TRUTH_PAGE);
}

/* map_right replaces the upper 8 of map_left's 17 pages, then one munmap goes across both. */
SITE char *map_left(void)
{
	return mapped(mmap(NULL, 17 * TRUTH_PAGE, RW, ANONYMOUS, -1, 0), 17, TRUTH_MAP());
}

SITE void map_right(char *left, struct truth_site *left_site)
{
	struct truth_site *site = TRUTH_MAP();

	mapped(mmap(left + 9 * TRUTH_PAGE, 8 * TRUTH_PAGE, RW, ANONYMOUS | MAP_FIXED, -1, 0), 8,
	       site);
	truth_cut(left_site, 8 * TRUTH_PAGE);
	unmap(left + 6 * TRUTH_PAGE, 5);
	truth_cut(left_site, 3 * TRUTH_PAGE);
	truth_cut(site, 2 * TRUTH_PAGE);
}

SITE char *map_under(void)
{
	return mapped(mmap(NULL, 11 * TRUTH_PAGE, RW, ANONYMOUS, -1, 0), 11, TRUTH_MAP());
}

SITE void map_over(char *under, struct truth_site *under_site)
{
	mapped(mmap(under, 5 * TRUTH_PAGE, RW, ANONYMOUS | MAP_FIXED, -1, 0), 5, TRUTH_MAP());
	truth_cut(under_site, 5 * TRUTH_PAGE);
}

/* As HotSpot does: reserve 67 pages without access, commit 19, uncommit 6 of them. */
SITE char *map_reserve(void)
{
	struct truth_site *site = TRUTH_MAP();

	site->omit = TRUTH_NO_ALLOCATED | TRUTH_NO_COUNT;
	site->reserved_bytes += (67 - 19) * TRUTH_PAGE;
	return mapped(mmap(NULL, 67 * TRUTH_PAGE, PROT_NONE, ANONYMOUS | MAP_NORESERVE, -1, 0), 67,
		      site);
}

SITE char *map_commit(char *reserved, struct truth_site *reserve_site)
{
	truth_cut(reserve_site, 19 * TRUTH_PAGE);
	return mapped(mmap(reserved, 19 * TRUTH_PAGE, RW, ANONYMOUS | MAP_FIXED, -1, 0), 19,
		      TRUTH_MAP());
}

SITE void map_uncommit(char *committed, struct truth_site *commit_site)
{
	struct truth_site *site = TRUTH_MAP();

	site->omit = TRUTH_NO_ALLOCATED | TRUTH_NO_COUNT;
	site->reserved_bytes += 6 * TRUTH_PAGE;
	mapped(mmap(committed + 3 * TRUTH_PAGE, 6 * TRUTH_PAGE, PROT_NONE,
		    ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0),
	       6, site);
	truth_cut(commit_site, 6 * TRUTH_PAGE);
}

SITE void map_protect_shut(void)
{
	struct truth_site *site = TRUTH_MAP();
	char *start = mapped(mmap(NULL, 5 * TRUTH_PAGE, RW, ANONYMOUS, -1, 0), 5, site);

	TRUTH_CHECK(!mprotect(start + TRUTH_PAGE, 2 * TRUTH_PAGE, PROT_NONE));
	site->omit = TRUTH_NO_ALLOCATED;
	site->reserved_bytes += 2 * TRUTH_PAGE;
}

SITE void map_protect_open(void)
{
	struct truth_site *site = TRUTH_MAP();
	char *start = mapped(mmap(NULL, 7 * TRUTH_PAGE, PROT_NONE, ANONYMOUS, -1, 0), 7, site);

	TRUTH_CHECK(!mprotect(start + 2 * TRUTH_PAGE, 3 * TRUTH_PAGE, RW));
	site->omit = TRUTH_NO_ALLOCATED;
	site->reserved_bytes += 4 * TRUTH_PAGE;
}

/* madvise takes the pages out of memory, not out of the address space. */
SITE void map_advised(void)
{
	char *start = mapped(mmap(NULL, 19 * TRUTH_PAGE, RW, ANONYMOUS, -1, 0), 19, TRUTH_MAP());

	memset(start, 1, 19 * TRUTH_PAGE);
	TRUTH_CHECK(!madvise(start, 13 * TRUTH_PAGE, MADV_DONTNEED));
}

SITE char *map_remap_seed(long pages)
{
	return mapped(mmap(NULL, (size_t)(pages * TRUTH_PAGE), RW, ANONYMOUS, -1, 0), pages,
		      TRUTH_MAP());
}

static void remapped(void *address, long old_pages, long pages, struct truth_site *seed,
		     struct truth_site *site)
{
	mapped(address, pages, site);
	truth_drop(seed, old_pages * TRUTH_PAGE);
}

SITE void map_remap_grow(char *old, struct truth_site *seed)
{
	remapped(mremap(old, 3 * TRUTH_PAGE, 7 * TRUTH_PAGE, MREMAP_MAYMOVE), 3, 7, seed,
		 TRUTH_MAP());
}

SITE void map_remap_shrink(char *old, struct truth_site *seed)
{
	remapped(mremap(old, 11 * TRUTH_PAGE, 2 * TRUTH_PAGE, 0), 11, 2, seed, TRUTH_MAP());
}

SITE char *map_remap_place(void)
{
	return mapped(mmap(NULL, 5 * TRUTH_PAGE, RW, ANONYMOUS, -1, 0), 5, TRUTH_MAP());
}

/* Moves onto a mapping that lives and so goes. */
SITE void map_remap_move(char *old, struct truth_site *seed, char *place)
{
	remapped(mremap(old, 5 * TRUTH_PAGE, 5 * TRUTH_PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place),
		 5, 5, seed, TRUTH_MAP());
}

SITE void map_file(int file)
{
	mapped(mmap(NULL, 2 * TRUTH_PAGE, PROT_READ, MAP_PRIVATE, file, 0), 2, TRUTH_MAP());
}

SITE void map_failed(void)
{
	TRUTH_MAP();
	TRUTH_CHECK(mmap(NULL, 0, RW, ANONYMOUS, -1, 0) == MAP_FAILED);
	TRUTH_CHECK(mmap(NULL, impossible, RW, ANONYMOUS, -1, 0) == MAP_FAILED);
	TRUTH_CHECK(mmap(NULL, TRUTH_PAGE, RW, MAP_PRIVATE, -1, 0) == MAP_FAILED);
}

SITE void map_unmap_failed(void)
{
	char *start = mapped(mmap(NULL, 3 * TRUTH_PAGE, RW, ANONYMOUS, -1, 0), 3, TRUTH_MAP());

	TRUTH_CHECK(munmap(start + 1, TRUTH_PAGE) && errno == EINVAL);
}

SITE void *map_shared(bool keeps)
{
	struct truth_site *site = TRUTH_MAP();
	int id = shmget(IPC_PRIVATE, 3 * TRUTH_PAGE, IPC_CREAT | 0600);
	void *address = shmat(id, NULL, 0);

	/* Removed now, so that it is gone with its last user however that one ends. */
	TRUTH_CHECK(id >= 0 && !shmctl(id, IPC_RMID, NULL));
	mapped(address, 3, site);
	if (!keeps) {
		TRUTH_CHECK(!shmdt(address));
		truth_drop(site, 3 * TRUTH_PAGE);
	}
	return address;
}

static struct truth_site *map_site(const char *function)
{
	return truth_at(function, "map");
}

static void run_map_once(int file)
{
	char *start;

	map_odd();
	map_raw();
	unmap(map_pages_freed(), 5);
	truth_drop(map_site("map_pages_freed"), 5 * TRUTH_PAGE);
	map_head_cut();
	map_middle_cut();
	map_tail_cut();
	map_right(map_left(), map_site("map_left"));
	map_over(map_under(), map_site("map_under"));
	start = map_commit(map_reserve(), map_site("map_reserve"));
	map_uncommit(start, map_site("map_commit"));
	map_protect_shut();
	map_protect_open();
	map_advised();
	map_remap_grow(map_remap_seed(3), map_site("map_remap_seed"));
	map_remap_shrink(map_remap_seed(11), map_site("map_remap_seed"));
	start = map_remap_place();
	truth_drop(map_site("map_remap_place"), 5 * TRUTH_PAGE);
	map_remap_move(map_remap_seed(5), map_site("map_remap_seed"), start);
	map_file(file);
	map_failed();
	map_unmap_failed();
	map_shared(true);
	map_shared(false);
}

static void run(int thread)
{
	int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);

	TRUTH_CHECK(file >= 0);
	run_heap(thread);
	for (long i = 0; i < primes[thread]; i++)
		run_map_once(file);
	close(file);
	handed[thread] = heap_handed_over();
	pthread_barrier_wait(&handed_over);
	truth_release(handed[(thread + 1) % N_THREADS]);
}

static void *work(void *argument)
{
	int thread = (int)(intptr_t)argument;

	truth_name_thread(names[thread]);
	/* Makes this thread's arena and caches before the trace begins. */
	free(malloc(1));
	for (int i = 0; i < N_BEFORE; i++)
		before[thread][i] = malloc(1021);
	before_realloc[thread] = malloc(1999);
	pthread_barrier_wait(&started);
	pthread_barrier_wait(&started);
	run(thread);
	pthread_barrier_wait(&finished);
	/* Stays, so that its name and its tid stay. */
	pthread_barrier_wait(&finished);
	return NULL;
}

int main(void)
{
	pthread_t threads[N_THREADS];

	pthread_barrier_init(&started, NULL, N_THREADS);
	pthread_barrier_init(&handed_over, NULL, N_THREADS);
	pthread_barrier_init(&finished, NULL, N_THREADS);
	for (int i = 1; i < N_THREADS; i++)
		TRUTH_CHECK(!pthread_create(&threads[i], NULL, work, (void *)(intptr_t)i));
	truth_name_thread(names[0]);
	for (int i = 0; i < N_BEFORE; i++)
		before[0][i] = malloc(1021);
	before_realloc[0] = malloc(1999);
	pthread_barrier_wait(&started);
	truth_start();
	pthread_barrier_wait(&started);
	run(0);
	pthread_barrier_wait(&finished);
	truth_report(true, unmatched_frees, "\"unmatched_reallocs\":5,");
	truth_stay();
}
