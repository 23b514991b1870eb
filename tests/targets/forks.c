// SPDX-License-Identifier: Apache-2.0
/*
 * Children free what the parent had allocated, in their own copies of it, and allocate for themselves;
 * nothing of that is the parent's.
 *
 * usage: forks [CHILDREN=3]
 *
 * fork_child_keep stands in the truth with zeros. Incomplete: fork may allocate in libc.
 */
#include "truth.h"
#include <sys/wait.h>

#define N_BLOCKS 37

static struct block blocks[N_BLOCKS];

SITE struct block fork_parent_keep(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(malloc(1039), 1039, site);
}

SITE void fork_parent_later(void)
{
	struct truth_site *site = TRUTH_HEAP();

	truth_block(malloc(1049), 1049, site);
}

SITE void *fork_child_keep(void)
{
	return malloc(1051);
}

static void child(void)
{
	for (int i = 0; i < N_BLOCKS; i++)
		free(blocks[i].address);
	for (int i = 0; i < 43; i++)
		TRUTH_CHECK(fork_child_keep());
	_exit(0);
}

int main(int argc, char **argv)
{
	long n_children = truth_argument(argc, argv, 1, 3);

	truth_at("fork_child_keep", "heap");
	truth_start();
	for (int i = 0; i < N_BLOCKS; i++)
		blocks[i] = fork_parent_keep();
	for (long i = 0; i < n_children; i++) {
		pid_t pid = fork();
		int status;

		TRUTH_CHECK(pid >= 0);
		if (!pid)
			child();
		TRUTH_CHECK(waitpid(pid, &status, 0) == pid && status == 0);
		fork_parent_later();
	}
	truth_report(false, 0, "");
	truth_stay();
}
