// SPDX-License-Identifier: Apache-2.0
/* held_many BLOCKS MIB EVERY: many small blocks, and MIB of large ones in which every so manieth word is a pointer. */
#include "truth.h"

int main(int argc, char **argv)
{
	long n = argc > 1 ? atol(argv[1]) : 1000003, n_large = (argc > 2 ? atol(argv[2]) : 0) / 16;
	long every = argc > 3 ? atol(argv[3]) : 8;
	uint64_t state = 88172645463325252ull;
	char **blocks = malloc(n * sizeof(*blocks));
	uint64_t **large = malloc((n_large + 1) * sizeof(*large));
	char line[64];

	for (long i = 0; i < n; i++)
		blocks[i] = calloc(1, 24 + i % 80);
	for (long i = 0; i < n_large; i++) {
		large[i] = malloc(16 << 20);
		for (long j = 0; j < (16 << 20) / 8; j++) {
			state ^= state << 13;
			state ^= state >> 7;
			state ^= state << 17;
			large[i][j] = every && j % every == 0 ? (uint64_t)blocks[state % n] : state;
		}
	}
	dprintf(STDOUT_FILENO, "READY %d\n", getpid());
	while (read(STDIN_FILENO, line, sizeof(line)) > 0)
		dprintf(STDOUT_FILENO, "{\"blocks\": %ld}\n", n + n_large + 2);
	return blocks[0] == NULL || large == NULL;
}
