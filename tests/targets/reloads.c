// SPDX-License-Identifier: Apache-2.0
/*
 * Loads a library with its own malloc family, uses it and unloads it, without pause, from `go` to the end of stdin. Its
 * own blocks and those of the library are checked. `go` is answered with `RELOADED` after 200 rounds.
 */
#include "checked.h"
#include <dlfcn.h>
#include <libgen.h>
#include <poll.h>

#define N_BLOCKS 50
#define N_ROUNDS 200

static struct checked table = { .random = 8 };
static char path[4096];

static void reload(void)
{
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	unsigned char *blocks[N_BLOCKS];
	void *(*library_malloc)(size_t bytes);
	void (*library_free)(void *block);

	if (!library)
		truth_fail(dlerror());
	library_malloc = (void *(*)(size_t))dlsym(library, "malloc");
	library_free = (void (*)(void *))dlsym(library, "free");
	TRUTH_CHECK(library_malloc && library_free);
	for (size_t i = 0; i < N_BLOCKS; i++) {
		blocks[i] = library_malloc(100 + i);
		TRUTH_CHECK(blocks[i]);
		memset(blocks[i], (int)i, 100 + i);
	}
	for (size_t i = 0; i < N_BLOCKS; i++) {
		TRUTH_CHECK(blocks[i][0] == i && blocks[i][99 + i] == i);
		library_free(blocks[i]);
	}
	TRUTH_CHECK(!dlclose(library));
}

int main(int argc, char **argv)
{
	struct pollfd command = { .fd = STDIN_FILENO, .events = POLLIN };

	(void)argc;
	snprintf(path, sizeof(path), "%s", argv[0]);
	strncat(dirname(path), "/liballoc2.so", sizeof(path) - strlen(path) - 1);
	truth_start();
	for (unsigned long n = 0; poll(&command, 1, 0) == 0; n++) {
		for (int i = 0; i < 20; i++)
			checked_step(&table);
		reload();
		if (n == N_ROUNDS) {
			truth_print("RELOADED\n");
			truth_flush();
		}
	}
	return 0;
}
