// SPDX-License-Identifier: Apache-2.0
/*
 * Loads a library with its own malloc family after the trace began, and allocates from both.
 *
 * `load` dlopens it and answers `LOADED`; `go` allocates (and loads first, where it was not).
 * Incomplete: dlopen itself allocates from libc.
 */
#include "truth.h"
#include <dlfcn.h>
#include <libgen.h>

static void *(*alloc2_malloc)(size_t bytes);
static void *(*alloc2_calloc)(size_t n, size_t bytes);
static void *(*alloc2_realloc)(void *old, size_t bytes);
static int (*alloc2_posix_memalign)(void **result, size_t alignment, size_t bytes);
static void (*alloc2_free)(void *block);

static void load(const char *program)
{
	char path[4096];
	void *library;

	/* dirname() may write into its argument. */
	snprintf(path, sizeof(path), "%s", program);
	strncat(dirname(path), "/liballoc2.so", sizeof(path) - strlen(path) - 1);
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library)
		truth_fail(dlerror());
	alloc2_malloc = (void *(*)(size_t))dlsym(library, "malloc");
	alloc2_calloc = (void *(*)(size_t, size_t))dlsym(library, "calloc");
	alloc2_realloc = (void *(*)(void *, size_t))dlsym(library, "realloc");
	alloc2_posix_memalign = (int (*)(void **, size_t, size_t))dlsym(library, "posix_memalign");
	alloc2_free = (void (*)(void *))dlsym(library, "free");
	TRUTH_CHECK(alloc2_malloc && alloc2_calloc && alloc2_realloc && alloc2_posix_memalign &&
		    alloc2_free && (void *)alloc2_malloc != (void *)malloc);
}

SITE void dl_malloc_first(void)
{
	struct truth_site *site = TRUTH_HEAP();

	truth_block(malloc(1013), 1013, site);
}

SITE struct block dl_malloc_second(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(alloc2_malloc(1031), 1031, site);
}

SITE void dl_calloc_second(void)
{
	struct truth_site *site = TRUTH_HEAP();

	truth_block(alloc2_calloc(7, 151), 7 * 151, site);
}

SITE void dl_realloc_second(struct block old)
{
	struct truth_site *site = TRUTH_HEAP();

	truth_block(alloc2_realloc(old.address, 3001), 3001, site);
	truth_drop(old.site, old.bytes);
}

SITE void dl_posix_memalign_second(void)
{
	struct truth_site *site = TRUTH_HEAP();
	void *address = NULL;

	TRUTH_CHECK(!alloc2_posix_memalign(&address, 64, 769));
	truth_block(address, 769, site);
}

static void drop_second(struct block block)
{
	alloc2_free(block.address);
	truth_drop(block.site, block.bytes);
}

int main(int argc, char **argv)
{
	const char *command;

	(void)argc;
	truth_ready();
	command = truth_command();
	if (!strcmp(command, "load")) {
		load(argv[0]);
		truth_print("LOADED\n");
		truth_flush();
		truth_expect("go");
	} else {
		load(argv[0]);
	}
	for (int i = 0; i < 41; i++) {
		dl_malloc_first();
		dl_malloc_second();
		drop_second(dl_malloc_second());
		dl_calloc_second();
		dl_realloc_second(dl_malloc_second());
		dl_posix_memalign_second();
	}
	truth_report(false, 0, "");
	truth_stay();
}
