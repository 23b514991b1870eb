// SPDX-License-Identifier: Apache-2.0
/*
 * Allocates; at the command `exec` it executes itself, says READY anew under the same pid, and allocates
 * elsewhere.
 */
#include "truth.h"

SITE void exec_before(void)
{
	struct truth_site *site = TRUTH_HEAP();

	truth_block(malloc(1019), 1019, site);
}

SITE void exec_after(void)
{
	struct truth_site *site = TRUTH_HEAP();

	truth_block(malloc(1033), 1033, site);
}

int main(int argc, char **argv)
{
	bool second = argc > 1;

	truth_start();
	for (int i = 0; i < (second ? 29 : 31); i++) {
		if (second)
			exec_after();
		else
			exec_before();
	}
	truth_report(true, 0, "");
	if (second)
		truth_stay();
	truth_expect("exec");
	execl("/proc/self/exe", argv[0], "second", (char *)NULL);
	truth_fail("execl");
}
