// SPDX-License-Identifier: Apache-2.0
/*
 * Loads a plugin, lets it allocate, and unloads it, 20 times, by two paths in turn (arguments). One block of 1,013 bytes of each load stays. Incomplete: the loader allocates.
 * Argument 3: microseconds that the plugin stays loaded.
 */
#include "truth.h"
#include <dlfcn.h>

#define N_LOADS 20

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
	}
	truth_report(false, 0, "");
	truth_stay();
}
