// SPDX-License-Identifier: Apache-2.0
/* operator new that throws, and a program that goes on: what it asks for no machine has. */
#include "truth.h"
#include <new>

static volatile std::size_t impossible = PTRDIFF_MAX;

extern "C" {
SITE void throws_new()
{
	/* What the runtime allocates for an exception it frees again. */
	TRUTH_HEAP()->omit = TRUTH_NO_ALLOCATED;
	try {
		void *block = ::operator new(impossible);

		TRUTH_CHECK(!block);
	} catch (const std::bad_alloc &) {
		return;
	}
	truth_fail("operator new returned");
}

SITE void throws_not()
{
	truth_site *site = TRUTH_HEAP();

	TRUTH_CHECK(::operator new(1109));
	truth_add(site, 1109);
}
}

int main()
{
	truth_start();
	for (int i = 0; i < 19; i++) {
		throws_new();
		throws_not();
	}
	truth_report(false, 0, "");
	truth_stay();
}
