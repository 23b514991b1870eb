// SPDX-License-Identifier: Apache-2.0
/* The program break by bytes, not by pages: what a site has asked for is counted to the byte. No malloc at all. */
#include "truth.h"

static void up(long bytes, struct truth_site *site)
{
	TRUTH_CHECK(sbrk(bytes) != (void *)-1);
	truth_add(site, bytes);
}

static void down(long bytes)
{
	TRUTH_CHECK(sbrk(-bytes) != (void *)-1);
}

SITE void brk_one(void)
{
	up(1, TRUTH_BRK());
}

SITE void brk_page_less_one(void)
{
	up(4095, TRUTH_BRK());
}

SITE void brk_odd(void)
{
	up(1000003, TRUTH_BRK());
}

SITE void brk_odd_down(struct truth_site *site)
{
	TRUTH_BRK();
	down(500009);
	truth_cut(site, 500009);
}

/* All of the last site's rest, and 4090 bytes of the one before. */
SITE void brk_odd_across(struct truth_site *top, struct truth_site *below)
{
	TRUTH_BRK();
	down(1000003 - 500009 + 4090);
	truth_drop(top, 1000003 - 500009);
	truth_cut(below, 4090);
}

SITE void brk_same(void)
{
	TRUTH_BRK();
	TRUTH_CHECK(!brk(sbrk(0)));
}

int main(void)
{
	/* Makes the heap, so that the break is known. */
	TRUTH_CHECK(sbrk(17) != (void *)-1);
	truth_start();
	for (int i = 0; i < 5; i++) {
		brk_one();
		brk_page_less_one();
		brk_odd();
		brk_odd_down(truth_at("brk_odd", "brk"));
		brk_odd_across(truth_at("brk_odd", "brk"), truth_at("brk_page_less_one", "brk"));
		brk_same();
	}
	truth_report(true, 0, "");
	truth_stay();
}
