// SPDX-License-Identifier: Apache-2.0
/* Loaded and unloaded by plugins.c: allocates from the C library for its caller. */
#include <stdlib.h>

__attribute__((noipa)) static void *plugin_buffer(size_t bytes)
{
	return malloc(bytes);
}

__attribute__((noipa)) void *plugin_work(size_t bytes)
{
	char *block = plugin_buffer(bytes);

	if (block)
		*block = 1;
	return block;
}
