// SPDX-License-Identifier: Apache-2.0
/*
 * The program break, up and down, by sbrk, brk and the bare system call; no malloc at all.
 *
 * Whole pages throughout, from a break aligned before READY: what lies between is nobody's.
 */
#include "truth.h"

static char *grown(void *old, long pages, struct truth_site *site)
{
	TRUTH_CHECK(old != (void *)-1);
	truth_add(site, pages * TRUTH_PAGE);
	return (char *)old;
}

SITE void brk_first(void)
{
	grown(sbrk(7 * TRUTH_PAGE), 7, TRUTH_BRK());
}

SITE void brk_second(void)
{
	grown(sbrk(5 * TRUTH_PAGE), 5, TRUTH_BRK());
}

/* Takes 3 pages off the end, which are the last ones that were added. */
SITE void brk_shrink(struct truth_site *top)
{
	TRUTH_BRK();
	TRUTH_CHECK(sbrk(-3 * TRUTH_PAGE) != (void *)-1);
	truth_cut(top, 3 * TRUTH_PAGE);
}

SITE void brk_by_address(void)
{
	TRUTH_CHECK(!brk((char *)sbrk(0) + 11 * TRUTH_PAGE));
	grown(NULL, 11, TRUTH_BRK());
}

SITE void brk_dropped(void)
{
	grown(sbrk(13 * TRUTH_PAGE), 13, TRUTH_BRK());
}

/* 13 pages of one site and 2 of the one before it. */
SITE void brk_shrink_across(struct truth_site *top, struct truth_site *below)
{
	TRUTH_BRK();
	TRUTH_CHECK(!brk((char *)sbrk(0) - 15 * TRUTH_PAGE));
	truth_drop(top, 13 * TRUTH_PAGE);
	truth_cut(below, 2 * TRUTH_PAGE);
}

/* Below the start of the heap: refused, the break stays. */
SITE void brk_refused(void)
{
	long now = syscall(SYS_brk, 0L);

	TRUTH_BRK();
	TRUTH_CHECK(syscall(SYS_brk, TRUTH_PAGE) == now);
}

/* Last, since the libc's own idea of the break is wrong afterwards. */
SITE void brk_raw(void)
{
	long old = syscall(SYS_brk, 0L);
	long wanted = old + 17 * TRUTH_PAGE;

	TRUTH_CHECK(syscall(SYS_brk, wanted) == wanted);
	grown((void *)old, 17, TRUTH_BRK());
}

int main(void)
{
	long loose = (long)sbrk(0) % TRUTH_PAGE;

	if (loose)
		TRUTH_CHECK(sbrk(TRUTH_PAGE - loose) != (void *)-1);
	truth_start();
	brk_first();
	brk_second();
	brk_shrink(truth_at("brk_second", "brk"));
	brk_by_address();
	brk_dropped();
	brk_shrink_across(truth_at("brk_dropped", "brk"), truth_at("brk_by_address", "brk"));
	brk_refused();
	brk_raw();
	truth_report(true, 0, "");
	truth_stay();
}
