// SPDX-License-Identifier: Apache-2.0
/*
 * Allocates under a recursion of a given depth: for the limit on stacks.
 *
 * usage: deep [DEPTH=211] [COUNT=23]
 */
#include "truth.h"

SITE void deep_keep(void)
{
	struct truth_site *site = TRUTH_HEAP();

	truth_block(malloc(1087), 1087, site);
}

SITE void deep_descend(long depth)
{
	if (depth)
		deep_descend(depth - 1);
	else
		deep_keep();
}

int main(int argc, char **argv)
{
	long depth = truth_argument(argc, argv, 1, 211);
	long n = truth_argument(argc, argv, 2, 23);

	truth_start();
	for (long i = 0; i < n; i++)
		deep_descend(depth);
	truth_report(true, 0, "");
	truth_stay();
}
