// SPDX-License-Identifier: Apache-2.0
/*
 * Rare calls of the allocator beside a thread that allocates and frees without pause, for call sites that are watched by
 * themselves. Each command is answered by the truth so far.
 *
 * `keep N`: N blocks at each of the rare sites, by each function of the allocator, and another N when the busy thread
 * has made ten million pairs since: windows come and go meanwhile;
 * `fail N`: N times an operator new that throws, a malloc that fails, and an exception out of a function that has just
 * allocated; all of it is caught, and nothing stays.
 */
#include "truth.h"
#include <new>

namespace
{
constexpr long small_bytes = 211;
constexpr long page_bytes = 4096;

volatile std::size_t absurd = PTRDIFF_MAX;
volatile long n_turns;

void *pairs(void *)
{
	prctl(PR_SET_NAME, "busy");
	for (;; n_turns = n_turns + 1)
		for (int i = 0; i < 1000; i++) {
			void *block = malloc(64 + i % 512);

			asm volatile("" ::"r"(block) : "memory");
			free(block);
		}
	return nullptr;
}
} // namespace

extern "C" {
SITE void *rare_malloc(void)
{
	void *block = malloc(small_bytes);

	truth_add(TRUTH_HEAP(), small_bytes);
	return block;
}

SITE void *rare_calloc(void)
{
	void *block = calloc(7, 31);

	truth_add(TRUTH_HEAP(), 7 * 31);
	return block;
}

/* The first block is its own, and the second one takes its place. */
SITE void *rare_realloc(void)
{
	void *block = realloc(nullptr, small_bytes);

	block = realloc(block, 100 * small_bytes);
	truth_add(TRUTH_HEAP(), small_bytes);
	truth_drop(TRUTH_HEAP(), small_bytes);
	truth_add(TRUTH_HEAP(), 100 * small_bytes);
	return block;
}

SITE void *rare_posix_memalign(void)
{
	void *block = nullptr;

	TRUTH_CHECK(!posix_memalign(&block, page_bytes, 3 * page_bytes));
	truth_add(TRUTH_HEAP(), 3 * page_bytes);
	return block;
}

SITE void *rare_aligned_alloc(void)
{
	void *block = aligned_alloc(64, 640);

	truth_add(TRUTH_HEAP(), 640);
	return block;
}

SITE void *rare_new(void)
{
	char *block = new char[small_bytes];

	truth_add(TRUTH_HEAP(), small_bytes);
	asm volatile("" ::"r"(block) : "memory");
	return block;
}

SITE void *rare_nothrow(void)
{
	void *block = ::operator new(small_bytes, std::nothrow);

	truth_add(TRUTH_HEAP(), small_bytes);
	return block;
}

SITE void *rare_strdup(void)
{
	void *block = strdup("a text of 26 characters ...");

	truth_add(TRUTH_HEAP(), 28);
	return block;
}

SITE void *rare_throwing(void)
{
	return ::operator new(absurd);
}

SITE void *rare_failing(void)
{
	return malloc(absurd);
}

SITE void rare_left(void)
{
	char *block = new char[small_bytes];

	truth_add(TRUTH_HEAP(), small_bytes);
	asm volatile("" ::"r"(block) : "memory");
	delete[] block;
	truth_drop(TRUTH_HEAP(), small_bytes);
	throw 1;
}
}

int main()
{
	using Rare = void *(*)();
	const Rare all[] = { rare_malloc,	 rare_calloc, rare_realloc, rare_posix_memalign,
			     rare_aligned_alloc, rare_new,    rare_nothrow, rare_strdup };
	pthread_t thread;

	TRUTH_CHECK(!pthread_create(&thread, nullptr, pairs, nullptr));
	truth_ready();
	for (;;) {
		const char *command = truth_command();
		long n;

		if (sscanf(command, "keep %ld", &n) == 1) {
			for (long until = n_turns + 10000, round = 0; round < 2; round++) {
				while (round && n_turns < until)
					usleep(1000);
				for (long i = 0; i < n; i++)
					for (Rare each : all)
						TRUTH_CHECK(each());
			}
		} else if (sscanf(command, "fail %ld", &n) == 1) {
			for (long i = 0; i < n; i++) {
				try {
					rare_throwing();
				} catch (const std::bad_alloc &) {
				}
				TRUTH_CHECK(!rare_failing());
				try {
					rare_left();
				} catch (int) {
				}
			}
		} else {
			truth_fail("unknown command");
		}
		truth_report(false, 0, "");
	}
}
