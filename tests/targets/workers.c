// SPDX-License-Identifier: Apache-2.0
/*
 * A master that only waits, and three workers, of which the second keeps 4 MiB after `go`. A worker with the title
 * `workers: idle` as its command line, as servers set it.
 */
#include "truth.h"
#include <signal.h>

#define N_WORKERS 3
#define KEPT_BYTES (4l << 20)

SITE char *worker_keeps(void)
{
	return memset(malloc(KEPT_BYTES), 1, KEPT_BYTES);
}

static void work(int number, int from, int to, char *arguments)
{
	char byte;

	strcpy(arguments, "workers: idle");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (read(from, &byte, 1) == 1) {
		if (number == 1)
			worker_keeps();
		TRUTH_CHECK(write(to, &byte, 1) == 1);
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	int down[N_WORKERS][2], up[2];
	char byte = 1;

	TRUTH_CHECK(argc == 2 && strlen(argv[1]) >= 16 && !pipe(up));
	for (int i = 0; i < N_WORKERS; i++) {
		TRUTH_CHECK(!pipe(down[i]));
		if (!fork())
			work(i, down[i][0], up[1], argv[0]);
	}
	truth_start();
	for (int i = 0; i < N_WORKERS; i++)
		TRUTH_CHECK(write(down[i][1], &byte, 1) == 1 && read(up[0], &byte, 1) == 1);
	truth_report(false, 0, "");
	truth_stay();
}
