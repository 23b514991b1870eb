/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Holds memory that is resident, and allocates a little meanwhile; everything is checked against a pattern.
 *
 * Usage: ram MIB. Prints `READY <pid>` and works. Commands on stdin: `grow MIB` takes more memory and answers `GREW`;
 * `quit`, or the end of stdin, ends with `OK <operations>`. `BAD <what>` tells the first byte that is not what was written.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { BLOCKS = 512, PAGE = 4096, MAX_BLOCK = 2000, STEPS = 20 };

static struct {
	unsigned char *start;
	size_t size;
	unsigned char pattern;
} blocks[BLOCKS];

static unsigned long random_state = 31;

static unsigned long next_random(void)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return random_state;
}

static void fail(const char *what)
{
	printf("BAD %s\n", what);
	fflush(stdout);
	_exit(99);
}

static void release(int i)
{
	for (size_t k = 0; k < blocks[i].size; k++)
		if (blocks[i].start[k] != blocks[i].pattern)
			fail("block");
	free(blocks[i].start);
	blocks[i].start = NULL;
}

static void step(void)
{
	int i = (int)(next_random() % BLOCKS);

	if (blocks[i].start) {
		release(i);
		return;
	}
	blocks[i].size = 1 + next_random() % MAX_BLOCK;
	blocks[i].pattern = (unsigned char)next_random();
	blocks[i].start = malloc(blocks[i].size);
	if (!blocks[i].start)
		fail("malloc");
	memset(blocks[i].start, blocks[i].pattern, blocks[i].size);
}

static struct {
	unsigned char *start;
	size_t size;
} held[8];

static int n_held;

static void hold(size_t mib)
{
	size_t size = mib << 20;
	unsigned char *start =
		mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (start == MAP_FAILED || n_held == sizeof(held) / sizeof(held[0]))
		fail("hold");
	for (size_t i = 0; i < size; i += PAGE)
		start[i] = (unsigned char)(i >> 12);
	held[n_held].start = start;
	held[n_held++].size = size;
}

static void check_held(void)
{
	for (int k = 0; k < n_held; k++)
		for (size_t i = 0; i < held[k].size; i += PAGE)
			if (held[k].start[i] != (unsigned char)(i >> 12))
				fail("held memory");
}

int main(int argc, char **argv)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	unsigned long operations = 0, mib;
	char line[64];

	setvbuf(stdin, NULL, _IONBF, 0);
	hold(argc > 1 ? strtoul(argv[1], NULL, 10) : 1);
	printf("READY %d\n", (int)getpid());
	fflush(stdout);
	for (;;) {
		while (poll(&input, 1, 1) == 0)
			for (int k = 0; k < STEPS; k++, operations++)
				step();
		if (!fgets(line, sizeof(line), stdin) || sscanf(line, "grow %lu", &mib) != 1)
			break;
		hold(mib);
		printf("GREW\n");
		fflush(stdout);
	}
	check_held();
	for (int i = 0; i < BLOCKS; i++)
		if (blocks[i].start)
			release(i);
	printf("OK %lu\n", operations);
	fflush(stdout);
	return 0;
}
