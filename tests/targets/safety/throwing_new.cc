// SPDX-License-Identifier: Apache-2.0
/*
 * operator new that throws, and a program that goes on. argv: why it throws: limit (RLIMIT_AS), handler (a new_handler that
 * throws), absurd (an array of a length that no machine has), nothrow (the form that returns 0 instead); with -DQUOTA
 * quota: an operator new of the program's own over jemalloc, as query engines have one.
 */
#include "../truth.h"
#include <map>
#include <new>
#include <stdexcept>
#include <string>
#include <sys/resource.h>

#define N_ROUNDS 211

static volatile std::size_t too_much = 2ul << 30, absurd = PTRDIFF_MAX;
static int n_caught;

struct Custom {
};

#ifdef QUOTA
static std::size_t used, quota = SIZE_MAX;

struct QuotaExceeded : std::runtime_error {
	using runtime_error::runtime_error;
};

__attribute__((noinline)) void *operator new(std::size_t n)
{
	if (used + n > quota)
		throw QuotaExceeded("quota exceeded");
	void *block = malloc(n);

	if (!block)
		throw std::bad_alloc();
	used += n;
	return block;
}

__attribute__((noinline)) void operator delete(void *block) noexcept
{
	free(block);
}

__attribute__((noinline)) void operator delete(void *block, std::size_t n) noexcept
{
	used -= n;
	free(block);
}
#endif

static int throws_once(const std::string &why)
{
	try {
#ifdef QUOTA
		used = 0;
		quota = 100;
		TRUTH_CHECK(!::operator new(1009));
#endif
		if (why == "nothrow")
			return !::operator new(too_much, std::nothrow);
		char *block = why == "absurd" ? new char[absurd] : new char[too_much];

		block[0] = 1;
		delete[] block;
	} catch (const std::bad_alloc &) {
		return why == "limit" || why == "absurd";
	} catch (const Custom &) {
		return why == "handler";
	} catch (const std::runtime_error &) {
#ifdef QUOTA
		quota = SIZE_MAX;
#endif
		return why == "quota";
	}
	return 0;
}

extern "C" {
/* The same call instruction at the same depth each time, and others behind it. */
SITE void throws_new(const std::string &why)
{
	/* What the runtime allocates for an exception it frees again. */
	TRUTH_HEAP()->omit = TRUTH_NO_ALLOCATED;
	n_caught += throws_once(why);
}

SITE void keeps(int i)
{
	std::size_t bytes = 107 + static_cast<std::size_t>(i % 13);

	TRUTH_CHECK(::operator new(bytes));
	truth_add(TRUTH_HEAP(), static_cast<long>(bytes));
	TRUTH_CHECK(::operator new[](10007));
	truth_add(TRUTH_HEAP(), 10007);
	::operator delete(::operator new(59));
	truth_add(TRUTH_HEAP(), 59);
	truth_drop(TRUTH_HEAP(), 59);
}

/* A frame that covers where the call that threw had its own, without writing to it. */
SITE void keeps_in_deep_frame(int i)
{
	volatile char room[2039];

	room[0] = static_cast<char>(i);
	TRUTH_CHECK(::operator new(211));
	truth_add(TRUTH_HEAP(), 211);
	asm volatile("" ::"r"(room));
}
}

int main(int argc, char **argv)
{
	std::string why = argc > 1 ? argv[1] : "limit";
	char extra[32];

	if (why == "limit" || why == "handler" || why == "nothrow") {
		rlimit limit = { 600ul << 20, 600ul << 20 };

		setrlimit(RLIMIT_AS, &limit);
	}
	if (why == "handler")
		std::set_new_handler([] { throw Custom(); });
	truth_start();
	for (int i = 0; i < N_ROUNDS; i++) {
		throws_new(why);
		keeps_in_deep_frame(i);
		keeps(i);
	}
	snprintf(extra, sizeof(extra), "\"caught\":%d,", n_caught);
	truth_report(false, 0, extra);
	truth_stay();
}
