// SPDX-License-Identifier: Apache-2.0
/*
 * Loads a library with its own malloc family again and again, uses it and lets it go. The library is probed
 * wherever it lies. `load` loads it for the first time and answers `LOADED`; `go` does the rest.
 *
 * Incomplete: the loader allocates for itself. Blocks of a library that is gone stay outstanding: nobody freed
 * them.
 */
#include "truth.h"
#include <dlfcn.h>
#include <libgen.h>

#define N_ROUNDS 5

static void *library;
static char path[4096];
static void *(*library_malloc)(size_t bytes);
static void (*library_free)(void *block);

static void load(void)
{
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library)
		truth_fail(dlerror());
	library_malloc = (void *(*)(size_t))dlsym(library, "malloc");
	library_free = (void (*)(void *))dlsym(library, "free");
	TRUTH_CHECK(library_malloc && library_free);
}

SITE struct block dlclose_block(void)
{
	struct truth_site *site = TRUTH_HEAP();

	return truth_block(library_malloc(1031), 1031, site);
}

int main(int argc, char **argv)
{
	(void)argc;
	snprintf(path, sizeof(path), "%s", argv[0]);
	strncat(dirname(path), "/liballoc2.so", sizeof(path) - strlen(path) - 1);
	truth_ready();
	truth_expect("load");
	load();
	truth_print("LOADED\n");
	truth_flush();
	truth_expect("go");
	for (int i = 0; i < N_ROUNDS; i++) {
		for (int j = 0; j < 7; j++) {
			struct block block;

			dlclose_block();
			block = dlclose_block();
			library_free(block.address);
			truth_drop(block.site, block.bytes);
		}
		TRUTH_CHECK(!dlclose(library) && !dlopen(path, RTLD_NOW | RTLD_NOLOAD));
		load();
	}
	truth_report(false, 0, "");
	truth_stay();
}
