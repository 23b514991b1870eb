// SPDX-License-Identifier: Apache-2.0
/*
 * A region with known contents: peeked MIB. Of every four pages one holds numbers, one text, one zeros, and one was
 * never touched. Each page of text is 16 lines of 256 bytes: a request of HTTP, an object of JSON, a password, the name
 * of a Java class, and texts to fill up. `where` is answered by its addresses; `write MS` writes to its pages of
 * numbers at full speed, and is answered by the number of words written.
 */
#include "truth.h"
#include <sys/mman.h>
#include <time.h>

#define LINE 256
#define LINES (TRUTH_PAGE / LINE)

static char *region;
static long n_pages;

static void fill_text(char *page, long number)
{
	static const char *const forms[4] = {
		"GET /orders/%ld?id=7 HTTP/1.1\r\nHost: shop\r\n\r\n",
		"{\"customer\": \"c%ld\", \"open\": true}",
		"password=hunter%ld;",
		"java class com.acme.shop.Order%ld is loaded",
	};

	for (long line = 0; line < LINES; line++)
		snprintf(page + line * LINE, LINE, forms[line % 4],
			 line % 4 == 3 ? 5 : number * LINES + line);
}

static long now_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static long write_for(long ms)
{
	long end = now_ms() + ms, n_words = 0;

	while (now_ms() < end) {
		for (long page = 0; page < n_pages; page += 4) {
			volatile uint64_t *words = (void *)(region + page * TRUTH_PAGE);

			for (int word = 0; word < 512; word++)
				words[word]++;
			n_words += 512;
		}
	}
	return n_words;
}

int main(int argc, char **argv)
{
	size_t n_bytes = (argc > 1 ? atol(argv[1]) : 8) << 20;
	static char line[64];
	long ms;

	n_pages = n_bytes / TRUTH_PAGE;
	region = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TRUTH_CHECK(region != MAP_FAILED);
	TRUTH_CHECK(!madvise(region, n_bytes, MADV_NOHUGEPAGE));
	for (long page = 0; page < n_pages; page++) {
		char *start = region + page * TRUTH_PAGE;

		if (page % 4 == 0)
			for (long word = 0; word < 512; word++)
				((uint64_t *)start)[word] = page * 512 + word + 1;
		if (page % 4 == 1)
			fill_text(start, page);
		if (page % 4 == 2)
			*(volatile char *)start = 0;
	}
	dprintf(1, "READY %d\n", getpid());
	for (size_t n = 0; read(0, line + n, 1) == 1;) {
		if (line[n] != '\n') {
			n = n + 1 < sizeof(line) ? n + 1 : n;
			continue;
		}
		line[n] = 0;
		n = 0;
		if (sscanf(line, "write %ld", &ms) == 1)
			dprintf(1, "{\"words\": %ld}\n", write_for(ms));
		else
			dprintf(1, "{\"start\": %lu, \"bytes\": %zu, \"pages\": %ld}\n",
				(unsigned long)region, n_bytes, n_pages);
	}
	_exit(0);
}
