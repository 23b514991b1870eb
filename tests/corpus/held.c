/* SPDX-License-Identifier: Apache-2.0 */
/* Programs of the corpus in C, the held half: only for the final measurement. labels.py says which functions leak. */
#include <pthread.h>
#include <sys/mman.h>

#include "corpus.h"

struct item {
	struct item *next;
	unsigned char payload[];
};

static struct item *kept;

static void hang(struct item *item)
{
	item->next = kept;
	kept = item;
}

NOINLINE static void packet_checksum(void)
{
	unsigned char *scratch = calloc(1, 100 + corpus_random(900));
	scratch[0] = 1;
	free(scratch);
}

/* ---- few big blocks: one of 700,000 bytes in a pace ---- */

NOINLINE static void snapshot_take(void)
{
	struct item *snapshot = malloc(700001);
	memset(snapshot->payload, 1, 700000 - sizeof(*snapshot));
	hang(snapshot);
	corpus_keep("snapshot_take", 700001, 1);
}

static void few_big_blocks(void)
{
	for (;;) {
		if (corpus_now % TICKS == 30)
			snapshot_take();
		packet_checksum();
		corpus_tick();
	}
}

/* ---- one leak over many paths: 24 handlers intern their strings, nobody lets one go ---- */

NOINLINE static void intern_string(size_t length)
{
	struct item *string = malloc(length);
	memset(string->payload, 2, length - sizeof(*string));
	hang(string);
	corpus_keep("intern_string", length, 1);
}

#define HANDLER(n)                             \
	NOINLINE static void handler_##n(void) \
	{                                      \
		packet_checksum();             \
		intern_string(100 + 41 * n);   \
		packet_checksum();             \
	}
HANDLER(0)
HANDLER(1)
HANDLER(2)
HANDLER(3)
HANDLER(4)
HANDLER(5)
HANDLER(6)
HANDLER(7)
HANDLER(8)
HANDLER(9)
HANDLER(10)
HANDLER(11)
HANDLER(12)
HANDLER(13)
HANDLER(14)
HANDLER(15)
HANDLER(16)
HANDLER(17)
HANDLER(18)
HANDLER(19)
HANDLER(20)
HANDLER(21)
HANDLER(22)
HANDLER(23)

static void many_paths(void)
{
	static void (*const handlers[])(void) = {
		handler_0,  handler_1,	handler_2,  handler_3,	handler_4,  handler_5,
		handler_6,  handler_7,	handler_8,  handler_9,	handler_10, handler_11,
		handler_12, handler_13, handler_14, handler_15, handler_16, handler_17,
		handler_18, handler_19, handler_20, handler_21, handler_22, handler_23,
	};
	for (;;) {
		handlers[corpus_random(sizeof(handlers) / sizeof(*handlers))]();
		corpus_tick();
	}
}

/* ---- mapped memory that is not unmapped ---- */

NOINLINE static void segment_map(void)
{
	unsigned char *segment =
		mmap(NULL, 192 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memset(segment, 3, 192 << 10);
	corpus_keep("segment_map", 192 << 10, 1);
}

NOINLINE static void segment_scan(void)
{
	unsigned char *segment =
		mmap(NULL, 320 << 10, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	segment[0] = 4;
	munmap(segment, 320 << 10);
}

static void mapped_leak(void)
{
	for (;;) {
		if (corpus_now % 20 == 0)
			segment_map();
		if (corpus_now % 5 == 0)
			segment_scan();
		corpus_tick();
	}
}

/* ---- one in 10,000 of a site's blocks ---- */

NOINLINE static struct item *event_decode(int keep)
{
	struct item *event = malloc(509);
	event->payload[0] = 5;
	if (!keep) {
		free(event);
		return NULL;
	}
	hang(event);
	corpus_keep("event_decode", 509, 1);
	return event;
}

static void one_in_ten_thousand(void)
{
	for (unsigned long n = 0;;) {
		for (int i = 0; i < 100; i++)
			event_decode(++n % 10000 == 0);
		corpus_tick();
	}
}

/* ---- one in 100,000 of a site's blocks ---- */

NOINLINE static void record_scan(int keep)
{
	struct item *record = malloc(811);
	record->payload[0] = 6;
	if (keep) {
		hang(record);
		corpus_keep("record_scan", 811, 1);
	} else {
		free(record);
	}
}

static void one_in_hundred_thousand(void)
{
	for (unsigned long n = 0;;) {
		for (int i = 0; i < 600; i++)
			record_scan(++n % 100000 == 0);
		corpus_tick();
	}
}

/* ---- a copy of a setting, by strdup, in each of six threads ---- */

NOINLINE static void setting_read(void)
{
	static char name[401];
	memset(name, 'n', 400);
	char *copy = strdup(name);
	if (copy)
		corpus_keep("setting_read", 401, 1);
}

static void *setting_reader(void *unused)
{
	for (;;) {
		setting_read();
		packet_checksum();
		corpus_sleep(0.1);
	}
	return unused;
}

static void strdup_leak(void)
{
	for (int i = 0; i < 6; i++) {
		pthread_t thread;
		pthread_create(&thread, NULL, setting_reader, NULL);
	}
	for (;;)
		corpus_tick();
}

/* ---- bounded: a pool of connections with a high-water mark ---- */

struct connection {
	struct connection *next;
	unsigned char buffer[6000];
};
static struct connection *idle;

NOINLINE static struct connection *connection_acquire(void)
{
	struct connection *connection = idle;
	if (connection)
		idle = connection->next;
	else
		connection = malloc(sizeof(*connection));
	connection->buffer[0] = 7;
	return connection;
}

static void pool_high_water(void)
{
	struct connection *busy[200];
	int n = 0;
	for (;;) {
		int wanted = (int)(corpus_random(60) + corpus_random(60) + corpus_random(60));
		while (n < wanted)
			busy[n++] = connection_acquire();
		while (n > wanted) {
			busy[--n]->next = idle;
			idle = busy[n];
		}
		packet_checksum();
		corpus_tick();
	}
}

/* ---- bounded: a report is built over one pace and thrown away, each two paces ---- */

NOINLINE static void report_add(struct item **report)
{
	struct item *line = malloc(1201);
	line->payload[0] = 8;
	line->next = *report;
	*report = line;
}

static void periodic_batch(void)
{
	struct item *report = NULL;
	for (;;) {
		if (corpus_now % (2 * TICKS) < TICKS)
			report_add(&report);
		else
			while (report) {
				struct item *line = report;
				report = line->next;
				free(line);
			}
		packet_checksum();
		corpus_tick();
	}
}

/* ---- bounded: a ring of log lines of all sizes ---- */

NOINLINE static void ring_log(void)
{
	static char *ring[300];
	static unsigned at;
	size_t length = 64u << corpus_random(6);
	ring[at] = realloc(ring[at], length);
	memset(ring[at], 9, length);
	at = (at + 1) % 300;
}

static void bounded_ring(void)
{
	for (;;) {
		ring_log();
		ring_log();
		corpus_tick();
	}
}

static const struct scenario SCENARIOS[] = {
	{ "few_big_blocks", few_big_blocks },
	{ "many_paths", many_paths },
	{ "mapped_leak", mapped_leak },
	{ "one_in_ten_thousand", one_in_ten_thousand },
	{ "one_in_hundred_thousand", one_in_hundred_thousand },
	{ "strdup_leak", strdup_leak },
	{ "pool_high_water", pool_high_water },
	{ "periodic_batch", periodic_batch },
	{ "bounded_ring", bounded_ring },
};

CORPUS_MAIN(SCENARIOS)
