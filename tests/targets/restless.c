// SPDX-License-Identifier: Apache-2.0
/*
 * Makes events without pause, from READY to the end of stdin:
 *
 * `names`: threads rename themselves, to names that no output may take as they are
 * `maps`: threads map three pages, take away the middle one, then the others
 *
 * A site `restless_kept` keeps one block for each `go`.
 *
 * usage: restless names|maps [THREADS=2]
 */
#include "truth.h"
#include <sys/mman.h>
#include <sys/prctl.h>

#define MAX_THREADS 64

static const char *const names[] = {
	"a;b c 12",
	"\x1b[2J\x1b]0;x\x07",
	"\n\r\n",
	"<img src=x>",
	"\xff\xfe\xc3\x28",
	"\xe2\x80\xae"
	"evil",
	"[red]x[/]",
	"%s%n%d",
	"",
	" ",
	"a\tb",
	"\"'\\",
	"x 99999999",
	"{\"a\":1}",
	"1;31m",
	"last",
};

SITE void restless_kept(void)
{
	truth_block(malloc(4093), 4093, TRUTH_HEAP());
}

static void *rename_for_ever(void *argument)
{
	for (unsigned int i = (unsigned int)(uintptr_t)argument;; i++)
		prctl(PR_SET_NAME, names[i % (sizeof(names) / sizeof(names[0]))]);
	return NULL;
}

static void *map_for_ever(void *argument)
{
	(void)argument;
	for (;;) {
		char *address = mmap(NULL, 3 * TRUTH_PAGE, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		TRUTH_CHECK(address != MAP_FAILED);
		TRUTH_CHECK(!munmap(address + TRUTH_PAGE, TRUTH_PAGE));
		TRUTH_CHECK(!munmap(address, 3 * TRUTH_PAGE));
	}
	return NULL;
}

int main(int argc, char **argv)
{
	long n_threads = truth_argument(argc, argv, 2, 2);
	void *(*work)(void *) = argc > 1 && !strcmp(argv[1], "maps") ? map_for_ever :
								       rename_for_ever;

	TRUTH_CHECK(n_threads <= MAX_THREADS);
	truth_ready();
	for (long i = 0; i < n_threads; i++) {
		pthread_t thread;

		TRUTH_CHECK(!pthread_create(&thread, NULL, work, (void *)i));
	}
	for (;;) {
		truth_command();
		restless_kept();
		truth_report(false, 0, "");
	}
}
