/* SPDX-License-Identifier: Apache-2.0 */
/* Programs of the corpus in C, the open half. labels.py says which of their functions leak. */
#include "corpus.h"

struct block {
	struct block *next;
	char body[];
};

static void push(struct block **list, struct block *block)
{
	block->next = *list;
	*list = block;
}

/* ---- a slow leak under churn: four sessions in a pace, 1 of 100 blocks ---- */

static struct block *sessions;

NOINLINE static void session_open(void)
{
	struct block *session = malloc(3001);
	memset(session->body, 1, 2000);
	push(&sessions, session);
	corpus_keep("session_open", 3001, 1);
}

NOINLINE static void request_handle(void)
{
	char *request = malloc(200 + corpus_random(1800));
	request[0] = 1;
	free(request);
}

static void slow_leak(void)
{
	for (;;) {
		for (int i = 0; i < 4; i++)
			request_handle();
		if (corpus_now % 25 == 0)
			session_open();
		corpus_tick();
	}
}

/* ---- a fast leak ---- */

static struct block *frames;

NOINLINE static void frame_capture(void)
{
	struct block *frame = malloc(30011);
	memset(frame->body, 2, 30000);
	push(&frames, frame);
	corpus_keep("frame_capture", 30011, 1);
}

static void fast_leak(void)
{
	for (;;) {
		frame_capture();
		corpus_tick();
	}
}

/* ---- a leak in bursts: each two paces an import forgets 150 of its 500 rows ---- */

static struct block *rows;

NOINLINE static void import_rows(void)
{
	for (int i = 0; i < 500; i++) {
		struct block *row = malloc(701);
		row->body[0] = 3;
		if (i % 10 < 3) {
			push(&rows, row);
			corpus_keep("import_rows", 701, 1);
		} else {
			free(row);
		}
	}
}

static void burst_leak(void)
{
	for (;;) {
		if (corpus_now % (2 * TICKS) == TICKS)
			import_rows();
		request_handle();
		corpus_tick();
	}
}

/* ---- 1 in 1,000 of the blocks of one site ---- */

static struct block *parsed;

NOINLINE static void message_parse(int keep)
{
	struct block *message = malloc(1003);
	message->body[0] = 4;
	if (keep) {
		push(&parsed, message);
		corpus_keep("message_parse", 1003, 1);
	} else {
		free(message);
	}
}

static void one_in_thousand(void)
{
	for (unsigned long n = 0;;) {
		for (int i = 0; i < 10; i++)
			message_parse(++n % 1000 == 0);
		corpus_tick();
	}
}

/* ---- two leaks behind one frame: two callers of one constructor, and a third that gives its nodes back ---- */

static struct block *nodes;

NOINLINE static struct block *xml_node_new(size_t size)
{
	struct block *node = malloc(size);
	memset(node->body, 5, size - sizeof(*node));
	return node;
}

NOINLINE static void config_reload(void)
{
	push(&nodes, xml_node_new(2003));
	corpus_keep("config_reload", 2003, 1);
}

NOINLINE static void feed_poll(void)
{
	push(&nodes, xml_node_new(5003));
	corpus_keep("feed_poll", 5003, 1);
}

NOINLINE static void page_render(void)
{
	static struct block *page[16];
	static int at;
	free(page[at]);
	page[at] = xml_node_new(4001);
	at = (at + 1) % 16;
}

static void two_behind_one(void)
{
	for (;;) {
		if (corpus_now % 5 == 0)
			config_reload();
		if (corpus_now % 10 == 0)
			feed_poll();
		page_render();
		corpus_tick();
	}
}

/* ---- a buffer that doubles and is never emptied ---- */

NOINLINE static void journal_append(size_t length)
{
	static char *text;
	static size_t used, room;
	if (used + length > room) {
		size_t before = room;
		room = room ? room * 3 / 2 : 4096;
		text = realloc(text, room);
		corpus_keep("journal_append", room - before, before ? 0 : 1);
	}
	memset(text + used, 6, length);
	used += length;
}

static void growing_buffer(void)
{
	for (;;) {
		journal_append(2000 + corpus_random(500));
		request_handle();
		corpus_tick();
	}
}

/* ---- bounded: an LRU cache, full after two paces ---- */

enum { LRU_ROOM = 400, KEYS = 1000 };

NOINLINE static void lru_put(unsigned key)
{
	static struct {
		unsigned key;
		unsigned long used;
		char *value;
	} slots[LRU_ROOM];
	int oldest = 0;
	for (int i = 0; i < LRU_ROOM; i++) {
		if (slots[i].value && slots[i].key == key) {
			slots[i].used = corpus_now;
			return;
		}
		if (slots[i].used < slots[oldest].used)
			oldest = i;
	}
	free(slots[oldest].value);
	slots[oldest].value = malloc(1500 + key);
	slots[oldest].value[0] = 7;
	slots[oldest].key = key;
	slots[oldest].used = corpus_now + 1;
}

static void lru_cache(void)
{
	for (;;) {
		for (int i = 0; i < 3; i++)
			lru_put(corpus_random(KEYS) * corpus_random(KEYS) / KEYS);
		corpus_tick();
	}
}

/* ---- bounded: names that live for two paces ---- */

enum { DNS_ROOM = 512 };

NOINLINE static void dns_remember(void)
{
	static struct {
		unsigned long until;
		char *name;
	} table[DNS_ROOM];
	for (int i = 0; i < DNS_ROOM; i++)
		if (table[i].name && table[i].until <= corpus_now) {
			free(table[i].name);
			table[i].name = NULL;
		}
	for (int i = 0; i < DNS_ROOM; i++)
		if (!table[i].name) {
			table[i].name = malloc(300 + corpus_random(700));
			table[i].name[0] = 8;
			table[i].until = corpus_now + 2 * TICKS;
			return;
		}
}

static void ttl_cache(void)
{
	for (;;) {
		dns_remember();
		if (corpus_random(3) == 0)
			dns_remember();
		corpus_tick();
	}
}

/* ---- bounded: two buffers that take turns ---- */

NOINLINE static void frame_swap(void)
{
	static char *front, *back;
	free(back);
	back = front;
	front = malloc((3 << 20) + corpus_random(4096));
	memset(front, 9, 3 << 20);
}

static void double_buffering(void)
{
	for (;;) {
		if (corpus_now % (TICKS / 2) == 0)
			frame_swap();
		request_handle();
		corpus_tick();
	}
}

/* ---- a leak at the place where a cache fills first ---- */

static struct block *pages;

NOINLINE static void page_load(unsigned long i)
{
	static struct block *room[300];
	struct block *page = malloc(2003);
	page->body[0] = 5;
	if (i < 300) {
		room[i] = page;
	} else if (i % 20 == 0) {
		push(&pages, page);
		corpus_keep("page_load", 2003, 1);
	} else {
		free(page);
	}
	if (i == 300 && !room[0])
		abort();
}

static void filled_and_leaks(void)
{
	/* The cache fills in the second and third pace of a trace. */
	for (unsigned long i = 0;; corpus_tick()) {
		page_load(i++);
		if (corpus_now > 2 * TICKS && corpus_now < 4 * TICKS)
			page_load(i++);
		request_handle();
	}
}

/* ---- a leak by a function that ends in a jump to its helper ---- */

static struct block *events;

NOINLINE static void event_link(struct block *event)
{
	push(&events, event);
	corpus_keep("event_add", 1201, 1);
}

NOINLINE static struct block *event_new(size_t n)
{
	return malloc(n);
}

NOINLINE static struct block *event_add(size_t n)
{
	return event_new(n + 1);
}

static void tail_calls(void)
{
	for (;;) {
		event_link(event_add(1200));
		free(event_new(1200));
		request_handle();
		corpus_tick();
	}
}

/* ---- a leak only while an error lasts: half a pace of each second one ---- */

static struct block *failures;

NOINLINE static void failure_note(int keep)
{
	struct block *failure = malloc(1601);
	failure->body[0] = 6;
	if (keep) {
		push(&failures, failure);
		corpus_keep("failure_note", 1601, 1);
	} else {
		free(failure);
	}
}

static void error_episodes(void)
{
	for (;;) {
		failure_note(corpus_now / (TICKS / 2) % 4 == 1);
		request_handle();
		corpus_tick();
	}
}

/* ---- bounded: sessions of very different lifetimes, in a number that wavers ---- */

static void wavering_sessions(void)
{
	static char *open_[128];
	for (;;) {
		for (int i = 0; i < 4; i++) {
			unsigned at = corpus_random(64 + 64 * (corpus_now / (3 * TICKS) % 2));
			free(open_[at]);
			open_[at] = NULL;
			if (corpus_random(10) < 7) {
				open_[at] = malloc(500 + corpus_random(5000));
				open_[at][0] = 7;
			}
		}
		corpus_tick();
	}
}

static const struct scenario SCENARIOS[] = {
	{ "slow_leak", slow_leak },
	{ "fast_leak", fast_leak },
	{ "burst_leak", burst_leak },
	{ "one_in_thousand", one_in_thousand },
	{ "two_behind_one", two_behind_one },
	{ "growing_buffer", growing_buffer },
	{ "lru_cache", lru_cache },
	{ "ttl_cache", ttl_cache },
	{ "double_buffering", double_buffering },
	{ "filled_and_leaks", filled_and_leaks },
	{ "tail_calls", tail_calls },
	{ "error_episodes", error_episodes },
	{ "wavering_sessions", wavering_sessions },
};

CORPUS_MAIN(SCENARIOS)
