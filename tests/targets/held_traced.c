// SPDX-License-Identifier: Apache-2.0
/*
 * Four sites: one loses its blocks, one keeps them, one loses every second, and the blocks of the last are freed by
 * `free`. `go` and `free` are answered by the numbers of blocks.
 */
#include "truth.h"

#define N_LOST 307
#define N_KEPT 401
#define N_MIXED 202
#define N_FREED 53

char *g_kept[N_KEPT], *g_mixed[N_MIXED], *g_freed[N_FREED];

SITE void lose_blocks(void)
{
	for (int i = 0; i < N_LOST; i++)
		*(volatile char *)calloc(1, 211) = 1;
}

SITE void keep_blocks(void)
{
	for (int i = 0; i < N_KEPT; i++)
		g_kept[i] = calloc(1, 113);
}

SITE void mix_blocks(void)
{
	for (int i = 0; i < N_MIXED; i++) {
		char *block = calloc(1, 97);

		*(volatile char *)block = 1;
		if (i % 2)
			g_mixed[i] = block;
	}
}

SITE void free_later(void)
{
	for (int i = 0; i < N_FREED; i++)
		g_freed[i] = calloc(1, 1009);
}

/* What earlier calls left on the stack would hold lost blocks. */
__attribute__((noinline)) static void scrub(void)
{
	volatile char filling[64 << 10];

	memset((char *)filling, 0, sizeof(filling));
}

int main(void)
{
	char line[64];

	dprintf(STDOUT_FILENO, "READY %d\n", getpid());
	for (;;) {
		ssize_t n = read(STDIN_FILENO, line, sizeof(line) - 1);

		if (n <= 0)
			return 0;
		line[n] = 0;
		if (!strncmp(line, "go", 2)) {
			lose_blocks();
			keep_blocks();
			mix_blocks();
			free_later();
		} else if (!strncmp(line, "free", 4)) {
			for (int i = 0; i < N_FREED; i++)
				free(g_freed[i]);
			memset(g_freed, 0, sizeof(g_freed));
		}
		scrub();
		dprintf(STDOUT_FILENO,
			"{\"lost\": %d, \"kept\": %d, \"mixed\": %d, \"freed\": %d}\n", N_LOST,
			N_KEPT, N_MIXED, N_FREED);
	}
}
