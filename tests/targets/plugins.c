// SPDX-License-Identifier: Apache-2.0
/*
 * Loads a plugin, lets it allocate, and unloads it, 40 times, by two paths in turn (arguments); a short mapping keeps the
 * next load from the same address. One block of 1,013 bytes of each load stays. Incomplete: the loader allocates.
 * Argument 3: microseconds that the plugin stays loaded.
 */
#include "truth.h"
#include <dlfcn.h>
#include <sys/mman.h>

#define N_LOADS 40

SITE void plugins_keep(const char *path, useconds_t stay_us)
{
	struct truth_site *site = TRUTH_HEAP();
	void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	void *(*work)(size_t);

	if (!library)
		truth_fail(dlerror());
	work = (void *(*)(size_t))dlsym(library, "plugin_work");
	truth_block(work(1013), 1013, site);
	usleep(stay_us);
	TRUTH_CHECK(!dlclose(library) && !dlopen(path, RTLD_NOW | RTLD_NOLOAD));
}

int main(int argc, char **argv)
{
	TRUTH_CHECK(argc == 4);
	truth_start();
	for (int i = 0; i < N_LOADS; i++) {
		plugins_keep(argv[1 + i % 2], (useconds_t)atol(argv[3]));
		TRUTH_CHECK(mmap(NULL, 5 * TRUTH_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
	}
	truth_report(false, 0, "");
	truth_stay();
}
