// SPDX-License-Identifier: Apache-2.0
/*
 * Address space, beyond what battery.c does with it: holes, places, failures, duplicates, files in memory, advice,
 * locks, huge pages. Two threads take turns, so that each site stands twice.
 *
 * The truth carries "resident": function -> bytes in memory of what it mapped last, by mincore(2).
 */
#include "truth.h"
#include <errno.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/shm.h>

#define P TRUTH_PAGE
#define RW (PROT_READ | PROT_WRITE)
#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS)
#define HUGE_BYTES (2 << 20)
#ifndef SYS_pkey_mprotect
#define SYS_pkey_mprotect 329
#endif

static pthread_barrier_t turn;
static char resident_line[4096];
static size_t resident_used;

static char *mapped(void *address, long bytes, struct truth_site *site)
{
	if (address == MAP_FAILED)
		truth_fail(site->function);
	truth_add(site, bytes);
	return address;
}

static struct truth_site *at(const char *function)
{
	return truth_at(function, "map");
}

/* Bytes of a range in memory, told once for each function and thread. */
static void tell_resident(const char *function, char *start, long bytes)
{
	static unsigned char pages[4096];
	long n = 0;

	TRUTH_CHECK(bytes / P <= (long)sizeof(pages) && !mincore(start, (size_t)bytes, pages));
	for (long i = 0; i < bytes / P; i++)
		n += pages[i] & 1;
	resident_used += (size_t)snprintf(resident_line + resident_used,
					  sizeof(resident_line) - resident_used, "%s\"%s/%d\":%ld",
					  resident_used ? "," : "", function, truth_tid(), n * P);
}

/* ------ where it goes ------ */

SITE char *maps_base(long pages)
{
	return mapped(mmap(NULL, (size_t)(pages * P), RW, ANONYMOUS, -1, 0), pages * P,
		      TRUTH_MAP());
}

SITE void maps_noreplace(char *place)
{
	TRUTH_CHECK(mapped(mmap(place, 3 * P, RW, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), 3 * P,
			   TRUTH_MAP()) == place);
}

SITE void maps_noreplace_refused(char *place)
{
	TRUTH_MAP();
	TRUTH_CHECK(mmap(place, 3 * P, RW, ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED &&
		    errno == EEXIST);
}

/* A hint that is taken already is only a hint. */
SITE void maps_hint(char *taken)
{
	TRUTH_CHECK(mapped(mmap(taken, 2 * P, RW, ANONYMOUS, -1, 0), 2 * P, TRUTH_MAP()) != taken);
}

/* 13 pages: [2,5) and [7,9) go, then everything from 1 to 11 at once, over both holes, and once more. */
static void run_holes(void)
{
	char *start = maps_base(13);
	struct truth_site *site = at("maps_base");

	maps_hint(start);
	TRUTH_CHECK(!munmap(start + 2 * P, 3 * P) && !munmap(start + 7 * P, 2 * P));
	maps_noreplace(start + 2 * P);
	maps_noreplace_refused(start + 4 * P);
	TRUTH_CHECK(!munmap(start + P, 10 * P));
	truth_cut(site, 10 * P);
	truth_drop(at("maps_noreplace"), 3 * P);
	TRUTH_CHECK(!munmap(start + P, 10 * P));
	maps_noreplace(start + P);
}

/* ------ access ------ */

SITE char *maps_shut(void)
{
	struct truth_site *site = TRUTH_MAP();
	char *start = mapped(mmap(NULL, 9 * P, RW, ANONYMOUS, -1, 0), 9 * P, site);

	site->omit = TRUTH_NO_ALLOCATED | TRUTH_NO_COUNT;
	TRUTH_CHECK(!mprotect(start, 9 * P, PROT_NONE));
	site->reserved_bytes += 9 * P;
	return start;
}

/* Shut and opened again: what is outstanding is what it was. */
SITE void maps_shut_and_opened(void)
{
	struct truth_site *site = TRUTH_MAP();
	char *start = mapped(mmap(NULL, 6 * P, RW, ANONYMOUS, -1, 0), 6 * P, site);

	site->omit = TRUTH_NO_ALLOCATED;
	TRUTH_CHECK(!mprotect(start, 6 * P, PROT_NONE));
	TRUTH_CHECK(!mprotect(start + 2 * P, 2 * P, PROT_EXEC));
	TRUTH_CHECK(!mprotect(start, 6 * P, PROT_READ));
}

SITE void maps_protect_refused(void)
{
	char *start = mapped(mmap(NULL, 3 * P, RW, ANONYMOUS, -1, 0), 3 * P, TRUTH_MAP());

	TRUTH_CHECK(mprotect(start + 1, P, PROT_NONE) && errno == EINVAL);
	TRUTH_CHECK(mprotect(start, P, PROT_NONE | 0x40) && errno == EINVAL);
}

SITE void maps_protect_across(char *left, struct truth_site *left_site)
{
	struct truth_site *site = TRUTH_MAP();

	mapped(mmap(left + 5 * P, 5 * P, RW, ANONYMOUS | MAP_FIXED, -1, 0), 5 * P, site);
	truth_cut(left_site, 5 * P);
	TRUTH_CHECK(!mprotect(left + 3 * P, 4 * P, PROT_NONE));
	site->omit = TRUTH_NO_ALLOCATED;
	left_site->omit = TRUTH_NO_ALLOCATED;
	site->reserved_bytes += 2 * P;
	left_site->reserved_bytes += 2 * P;
}

SITE char *maps_left(void)
{
	return mapped(mmap(NULL, 10 * P, RW, ANONYMOUS, -1, 0), 10 * P, TRUTH_MAP());
}

SITE void maps_pkey_shut(void)
{
	struct truth_site *site = TRUTH_MAP();
	char *start = mapped(mmap(NULL, 4 * P, RW, ANONYMOUS, -1, 0), 4 * P, site);

	site->omit = TRUTH_NO_ALLOCATED;
	if (!syscall(SYS_pkey_mprotect, start, 3 * P, PROT_NONE, -1L))
		site->reserved_bytes += 3 * P;
}

/* ------ mremap ------ */

SITE char *maps_remap_seed(long pages)
{
	return mapped(mmap(NULL, (size_t)(pages * P), RW, ANONYMOUS, -1, 0), pages * P,
		      TRUTH_MAP());
}

static void remapped(void *address, long old_bytes, long bytes, struct truth_site *site)
{
	mapped(address, bytes, site);
	truth_drop(at("maps_remap_seed"), old_bytes);
}

/* Behind it is room: it grows where it is. */
SITE void maps_remap_grow_in_place(char *old)
{
	TRUTH_CHECK(!munmap(old + 3 * P, 4 * P));
	truth_cut(at("maps_remap_seed"), 4 * P);
	TRUTH_CHECK(mremap(old, 3 * P, 7 * P, 0) == old);
	remapped(old, 3 * P, 7 * P, TRUTH_MAP());
}

/* Behind it is no room, and it may not move: nothing changes. */
SITE void maps_remap_refused(char *old)
{
	TRUTH_MAP();
	TRUTH_CHECK(mremap(old, 3 * P, 5 * P, 0) == MAP_FAILED && errno == ENOMEM);
	TRUTH_CHECK(mremap(old + 1, 3 * P, 5 * P, MREMAP_MAYMOVE) == MAP_FAILED);
	TRUTH_CHECK(mremap(old, P, 0, MREMAP_MAYMOVE) == MAP_FAILED);
	/* The new place lies in the old one. */
	TRUTH_CHECK(mremap(old, 3 * P, 3 * P, MREMAP_MAYMOVE | MREMAP_FIXED, old + P) ==
		    MAP_FAILED);
}

/* A piece out of the middle moves away: it belongs to the mremap, the rest to the mmap. */
SITE void maps_remap_middle(char *old)
{
	mapped(mremap(old + 2 * P, 3 * P, 6 * P, MREMAP_MAYMOVE), 6 * P, TRUTH_MAP());
	truth_cut(at("maps_remap_seed"), 3 * P);
}

/*
 * The old range stays, empty: both are address space. Linux 6.1 looks at the new place even where none is asked for.
 */
SITE void maps_remap_dontunmap(char *old)
{
	mapped(mremap(old, 5 * P, 5 * P, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL), 5 * P,
	       TRUTH_MAP());
}

SITE void maps_remap_dontunmap_fixed(char *old, char *place)
{
	mapped(mremap(old, 4 * P, 4 * P, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, place),
	       4 * P, TRUTH_MAP());
	truth_drop(at("maps_remap_seed"), 4 * P);
}

/* An old length of 0 maps shared memory a second time. */
SITE char *maps_shared(void)
{
	return mapped(mmap(NULL, 4 * P, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0), 4 * P, TRUTH_MAP());
}

SITE void maps_remap_twice(char *shared)
{
	char *second = mapped(mremap(shared, 0, 4 * P, MREMAP_MAYMOVE), 4 * P, TRUTH_MAP());

	*shared = 42;
	TRUTH_CHECK(*second == 42);
}

static void run_remap(void)
{
	maps_remap_grow_in_place(maps_remap_seed(7));
	maps_remap_refused(maps_remap_seed(11));
	maps_remap_middle(maps_remap_seed(8));
	maps_remap_dontunmap(maps_remap_seed(5));
	maps_remap_dontunmap_fixed(maps_remap_seed(4), maps_remap_seed(4));
	maps_remap_twice(maps_shared());
}

/* ------ files, memory that is a file, segments ------ */

static int memory_file(long bytes)
{
	int file = (int)syscall(SYS_memfd_create, "maps", 0);

	TRUTH_CHECK(file >= 0 && !ftruncate(file, bytes));
	return file;
}

SITE void maps_memfd(void)
{
	struct truth_site *site = TRUTH_MAP();
	int file = memory_file(9 * P);

	mapped(mmap(NULL, 9 * P, RW, MAP_SHARED, file, 0), 9 * P, site);
	mapped(mmap(NULL, 2 * P, RW, MAP_PRIVATE, file, 3 * P), 2 * P, site);
	close(file);
}

/* Longer than the file: the pages behind its end are address space all the same. */
SITE void maps_memfd_beyond(void)
{
	int file = memory_file(100);

	mapped(mmap(NULL, 5 * P, PROT_READ, MAP_SHARED, file, 0), 5 * P, TRUTH_MAP());
	close(file);
}

/* A segment of an odd size, mapped twice; shmdt of a wrong address, then of one of both. */
SITE void maps_segment(void)
{
	struct truth_site *site = TRUTH_MAP();
	int id = shmget(IPC_PRIVATE, 2 * P + 1, IPC_CREAT | 0600);
	char *first = shmat(id, NULL, 0), *second = shmat(id, NULL, SHM_RDONLY);

	TRUTH_CHECK(id >= 0 && !shmctl(id, IPC_RMID, NULL));
	mapped(first, 3 * P, site);
	mapped(second, 3 * P, site);
	TRUTH_CHECK(shmdt(first + P) && errno == EINVAL);
	TRUTH_CHECK(!shmdt(second));
	truth_drop(site, 3 * P);
}

/* Takes the place of what lies there. */
SITE void maps_segment_over(char *place, struct truth_site *under)
{
	int id = shmget(IPC_PRIVATE, 4 * P, IPC_CREAT | 0600);

	TRUTH_CHECK(shmat(id, place, SHM_REMAP) == place && !shmctl(id, IPC_RMID, NULL));
	mapped(place, 4 * P, TRUTH_MAP());
	truth_cut(under, 4 * P);
}

/* ------ in memory or not: outstanding stays, resident moves ------ */

static char *touched(char *start, long bytes)
{
	memset(start, 1, (size_t)bytes);
	return start;
}

SITE void maps_dontneed(void)
{
	char *start = mapped(mmap(NULL, 23 * P, RW, ANONYMOUS, -1, 0), 23 * P, TRUTH_MAP());

	touched(start, 23 * P);
	TRUTH_CHECK(!madvise(start + 2 * P, 17 * P, MADV_DONTNEED));
	tell_resident(__func__, start, 23 * P);
}

/* Taken back only when the machine wants memory: still there. */
SITE void maps_free(void)
{
	char *start = mapped(mmap(NULL, 29 * P, RW, ANONYMOUS, -1, 0), 29 * P, TRUTH_MAP());

	touched(start, 29 * P);
	TRUTH_CHECK(!madvise(start, 11 * P, MADV_FREE));
	tell_resident(__func__, start, 29 * P);
}

/* As a hole punched into the file: of memory in the file, not only in this process. */
SITE void maps_remove(void)
{
	int file = memory_file(31 * P);
	char *start = mapped(mmap(NULL, 31 * P, RW, MAP_SHARED, file, 0), 31 * P, TRUTH_MAP());

	close(file);
	touched(start, 31 * P);
	TRUTH_CHECK(!madvise(start + 5 * P, 7 * P, MADV_REMOVE));
	tell_resident(__func__, start, 31 * P);
}

SITE void maps_populated(void)
{
	char *start = mapped(mmap(NULL, 37 * P, RW, ANONYMOUS | MAP_POPULATE, -1, 0), 37 * P,
			     TRUTH_MAP());

	tell_resident(__func__, start, 37 * P);
}

SITE void maps_locked(void)
{
	char *start = mapped(mmap(NULL, 5 * P, RW, ANONYMOUS, -1, 0), 5 * P, TRUTH_MAP());

	if (mlock(start, 3 * P))
		touched(start, 3 * P);
	TRUTH_CHECK(!munlock(start, P));
	tell_resident(__func__, start, 5 * P);
}

/* One byte written brings a huge page, where the machine has them to give. */
SITE void maps_transparent_huge(void)
{
	struct truth_site *site = TRUTH_MAP();
	char *start =
		mapped(mmap(NULL, 3 * HUGE_BYTES, RW, ANONYMOUS, -1, 0), 3 * HUGE_BYTES, site);
	char *whole = (char *)(((uintptr_t)start + HUGE_BYTES - 1) & -(uintptr_t)HUGE_BYTES);

	madvise(whole, HUGE_BYTES, MADV_HUGEPAGE);
	*whole = 1;
	tell_resident(__func__, start, 3 * HUGE_BYTES);
}

/* Of a host that has none it fails, and is nothing. An odd length is rounded up to whole huge pages. */
SITE void maps_huge(void)
{
	struct truth_site *site = TRUTH_MAP();
	char *start = mmap(NULL, HUGE_BYTES, RW, ANONYMOUS | MAP_HUGETLB, -1, 0);

	if (start != MAP_FAILED) {
		mapped(start, HUGE_BYTES, site);
		*start = 1;
	}
	tell_resident(__func__, start == MAP_FAILED ? NULL : start,
		      start == MAP_FAILED ? 0 : HUGE_BYTES);
	start = mmap(NULL, HUGE_BYTES + 1, RW, ANONYMOUS | MAP_HUGETLB, -1, 0);
	if (start == MAP_FAILED)
		return;
	mapped(start, 2 * HUGE_BYTES, site);
	TRUTH_CHECK(!munmap(start, 2 * HUGE_BYTES));
	truth_drop(site, 2 * HUGE_BYTES);
}

SITE char *maps_under(void)
{
	return mapped(mmap(NULL, 9 * P, RW, ANONYMOUS, -1, 0), 9 * P, TRUTH_MAP());
}

static void run(void)
{
	for (int i = 0; i < 3; i++) {
		run_holes();
		maps_shut();
		maps_shut_and_opened();
		maps_protect_refused();
		maps_protect_across(maps_left(), at("maps_left"));
		maps_pkey_shut();
		run_remap();
		maps_memfd();
		maps_memfd_beyond();
		maps_segment();
		maps_segment_over(maps_under() + 2 * P, at("maps_under"));
	}
	maps_dontneed();
	maps_free();
	maps_remove();
	maps_populated();
	maps_locked();
	maps_transparent_huge();
	maps_huge();
}

static void *work(void *argument)
{
	truth_name_thread("second");
	pthread_barrier_wait(&turn);
	pthread_barrier_wait(&turn);
	run();
	pthread_barrier_wait(&turn);
	pthread_barrier_wait(&turn);
	return argument;
}

int main(void)
{
	pthread_t thread;
	static char extra[5000];

	pthread_barrier_init(&turn, NULL, 2);
	TRUTH_CHECK(!pthread_create(&thread, NULL, work, NULL));
	pthread_barrier_wait(&turn);
	truth_start();
	run();
	pthread_barrier_wait(&turn);
	pthread_barrier_wait(&turn);
	snprintf(extra, sizeof(extra), "\"resident\":{%s},", resident_line);
	truth_report(true, 0, extra);
	truth_stay();
}
