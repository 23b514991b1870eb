/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A list of blocks with the truth about each, in a file: nothing in the process points at a block because of it.
 *
 * The file is mapped shared, and addresses in it are XORed. Header: number of records, operations of churning threads.
 * Record: address ^ HELD_KEY, size, kind.
 */
#ifndef HELD_H
#define HELD_H

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define HELD_KEY 0x5a5a5a5a5a5a5a5aull
#define HELD_MAX (4 << 20)

struct held_record {
	uint64_t address;
	uint32_t size;
	uint32_t kind;
};

struct held_file {
	volatile uint64_t n_records;
	volatile uint64_t n_operations;
	struct held_record records[HELD_MAX];
};

static struct held_file *held_file;
static volatile uint64_t held_n;

static inline void held_open(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, sizeof(struct held_file))) {
		perror(path);
		exit(70);
	}
	held_file = (struct held_file *)mmap(0, sizeof(struct held_file), PROT_READ | PROT_WRITE,
					     MAP_SHARED, fd, 0);
	if (held_file == MAP_FAILED)
		exit(70);
}

/* Note a block; it may be held or lost by then. */
static inline void held_note(const void *block, size_t size, uint32_t kind)
{
	uint64_t n = __atomic_fetch_add(&held_n, 1, __ATOMIC_SEQ_CST);

	if (n >= HELD_MAX)
		_exit(70);
	held_file->records[n].size = (uint32_t)size;
	held_file->records[n].kind = kind;
	held_file->records[n].address = (uint64_t)block ^ HELD_KEY;
	__atomic_fetch_add(&held_file->n_records, 1, __ATOMIC_SEQ_CST);
}

#endif
