// SPDX-License-Identifier: Apache-2.0
/*
 * Recursion by random paths: call stacks without end, of which few hold anything for long, and a leak that begins late.
 *
 * usage: random_paths [PATHS at go=20000] [KEPT=64]
 *
 * Each path allocates a block and frees an older one: KEPT blocks are outstanding at any time. One path in eight is short,
 * so that its stack comes again after a while. `paths N`: N more paths, as at `go`. `leak N`: N blocks that nobody frees, at one site. Each is answered by the whole truth so far.
 */
#include "truth.h"

#define DEPTH 16
#define SHORT_DEPTH 4
#define MAX_KEPT 65536

static struct block kept[MAX_KEPT];
static long n_kept;
static uint64_t state = 77;
static long n_paths;

static unsigned int draw(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (unsigned int)(state >> 32);
}

SITE void path_end(void)
{
	long bytes = 17 + n_paths % 101;
	struct block *place = &kept[n_paths++ % n_kept];

	if (place->address)
		truth_release(*place);
	*place = truth_block(malloc((size_t)bytes), bytes, TRUTH_HEAP());
}

static void step(int depth);

#define PATH_STEP(n)                  \
	SITE void step_##n(int depth) \
	{                             \
		step(depth - 1);      \
		asm volatile("");     \
	}

PATH_STEP(0)
PATH_STEP(1)
PATH_STEP(2)
PATH_STEP(3)

__attribute__((noinline)) static void step(int depth)
{
	if (depth <= 0) {
		path_end();
	} else {
		switch (draw() % 4) {
		case 0:
			step_0(depth);
			break;
		case 1:
			step_1(depth);
			break;
		case 2:
			step_2(depth);
			break;
		default:
			step_3(depth);
		}
	}
	asm volatile("");
}

SITE void late_leak(void)
{
	truth_block(malloc(1009), 1009, TRUTH_HEAP());
}

static void walk_paths(long n)
{
	for (long i = 0; i < n; i++)
		step(i % 8 ? DEPTH : SHORT_DEPTH);
}

int main(int argc, char **argv)
{
	long n = truth_argument(argc, argv, 1, 20000);

	n_kept = truth_argument(argc, argv, 2, 64);
	TRUTH_CHECK(n_kept > 0 && n_kept <= MAX_KEPT);
	truth_start();
	walk_paths(n);
	truth_report(true, 0, "");
	for (;;) {
		const char *command = truth_command();

		if (!strncmp(command, "paths ", 6))
			walk_paths(atol(command + 6));
		else if (!strncmp(command, "leak ", 5))
			for (long left = atol(command + 5); left > 0; left--)
				late_leak();
		else
			truth_fail("unknown command");
		truth_report(true, 0, "");
	}
}
