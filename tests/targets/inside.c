// SPDX-License-Identifier: Apache-2.0
/*
 * A program with an allocator inside, whose functions no dynamic table names: 7 blocks of 1,013 bytes stay, of 11 blocks
 * of 509 bytes none. Incomplete: the allocator maps for itself.
 */
#define PUBLIC __attribute__((noipa, used, visibility("hidden")))
#include "libfamily.c"
#include "truth.h"

SITE void inside_keeps(void)
{
	struct truth_site *site = TRUTH_HEAP();

	for (int i = 0; i < 7; i++)
		truth_block(_fam_mallocx_v2(1013, 0), 1013, site);
}

SITE void inside_frees(void)
{
	struct truth_site *site = TRUTH_HEAP();

	for (int i = 0; i < 11; i++) {
		struct block block = truth_block(_fam_malloc_v2(509), 509, site);

		_fam_sdallocx_v2(block.address, 509, 0);
		truth_drop(site, 509);
	}
}

int main(void)
{
	truth_start();
	inside_keeps();
	inside_frees();
	truth_report(false, 0, "");
	truth_stay();
}
