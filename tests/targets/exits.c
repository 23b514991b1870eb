// SPDX-License-Identifier: Apache-2.0
/*
 * Allocates, prints its truth, and ends as it is told: `exit N` with that status, `kill N` by that signal.
 */
#include "truth.h"
#include <signal.h>

SITE void exit_keep(void)
{
	struct truth_site *site = TRUTH_HEAP();

	truth_block(malloc(1061), 1061, site);
}

int main(void)
{
	const char *command;
	int number;

	truth_start();
	for (int i = 0; i < 47; i++)
		exit_keep();
	truth_report(true, 0, "");
	command = truth_command();
	if (sscanf(command, "exit %d", &number) == 1)
		_exit(number);
	if (sscanf(command, "kill %d", &number) == 1)
		raise(number);
	truth_fail("unknown command");
}
