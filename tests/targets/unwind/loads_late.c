// SPDX-License-Identifier: Apache-2.0
/*
 * Loads a library at the first `go`, and calls it at each: of 1009 bytes at first, then one more each time.
 *
 * usage: loads_late LIBRARY
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "own_stack.h"

static const char *path;

static void work(void)
{
	static void (*call)(size_t);
	static size_t size = 1009;
	void *library;

	if (!call) {
		library = dlopen(path, RTLD_NOW);
		if (!library) {
			fprintf(stderr, "loads_late: %s\n", dlerror());
			exit(70);
		}
		*(void **)&call = dlsym(library, "late_call");
	}
	call(size++);
}

int main(int argc, char **argv)
{
	if (argc < 2)
		return 64;
	path = argv[1];
	own_stack_serve(work);
}
