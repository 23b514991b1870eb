// SPDX-License-Identifier: Apache-2.0
/* A library that is loaded in the course of a trace: allocates when it is initialised, and when it is called. */
#include <cstdlib>
#include <cstring>

#include "own_stack.h"

namespace
{

volatile long sink;

struct Initial {
	OWN Initial()
	{
		own_stack_keep(307);
		AFTER;
	}
} initial;

OWN void deeper(int depth, std::size_t size)
{
	char room[256];

	std::memset(room, depth, sizeof(room));
	if (depth)
		deeper(depth - 1, size);
	else
		own_stack_keep(size);
	sink += room[depth];
}

} // namespace

extern "C" __attribute__((visibility("default"))) void late_call(std::size_t size)
{
	deeper(6, size);
	AFTER;
}
