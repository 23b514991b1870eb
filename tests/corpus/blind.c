/* SPDX-License-Identifier: Apache-2.0 */
/* Programs of the corpus in C, the blind half. labels.py says which of their functions leak. */
#include <pthread.h>

#include "corpus.h"

#define ROOM(array) (sizeof(array) / sizeof(*(array)))

/* What a request needs and gives back; each service has some of it. */
NOINLINE static unsigned request_serve(unsigned largest)
{
	unsigned sum = 0;
	char *head = malloc(64 + corpus_random(400)), *body = malloc(16 + corpus_random(largest));
	memset(head, 'h', 64);
	memset(body, 'b', 16);
	for (int i = 0; i < 16; i++)
		sum += (unsigned)(head[i] ^ body[i]);
	free(body);
	free(head);
	return sum;
}

/*
 * ---- a TLS terminator: handshakes that fail ----
 * The state of a handshake is freed where it succeeds; the way out for a bad certificate (1 of 25) forgets it.
 * Beside it: 64 connections that come and go, and a ring of 512 session tickets.
 */

struct handshake {
	unsigned char *transcript;
	unsigned char *keys;
};
static struct {
	char *input, *output;
} connections[64];
static char *tickets[512];

NOINLINE static void handshake_begin(struct handshake *handshake)
{
	handshake->transcript = malloc(4200);
	memset(handshake->transcript, 1, 4200);
	handshake->keys = calloc(1, 176);
	handshake->keys[0] = 2;
}

NOINLINE static int certificate_verify(const struct handshake *handshake)
{
	char *chain = malloc(1200 + corpus_random(3000));
	memset(chain, handshake->transcript[0], 1200);
	int good = chain[5] == 1 && corpus_random(25) != 0;
	free(chain);
	return good;
}

NOINLINE static void ticket_issue(void)
{
	static unsigned next;
	free(tickets[next]);
	tickets[next] = malloc(180 + corpus_random(60));
	memset(tickets[next], 3, 180);
	next = (next + 1) % ROOM(tickets);
}

NOINLINE static int connection_accept(void)
{
	struct handshake handshake;
	handshake_begin(&handshake);
	if (!certificate_verify(&handshake)) {
		corpus_keep("handshake_begin", 4376, 2);
		return -1;
	}
	ticket_issue();
	free(handshake.transcript);
	free(handshake.keys);
	unsigned at = corpus_random(ROOM(connections));
	free(connections[at].input);
	free(connections[at].output);
	connections[at].input = malloc(16384);
	connections[at].output = malloc(4096);
	memset(connections[at].input, 0, 16384);
	memset(connections[at].output, 0, 4096);
	return 0;
}

static void tls_handshakes(void)
{
	for (;;) {
		for (int i = 0; i < 4; i++)
			if (connection_accept() == 0)
				for (int j = 0; j < 20; j++)
					request_serve(9000);
		corpus_tick();
	}
}

/*
 * ---- a resolver: negative answers that nobody expires ----
 * An answer that says "no such name" has a lifetime of 0, which the sweeper takes for "for ever"; about 60 in a pace.
 * Beside it: 1,500 positive answers, replaced in turn, and the packets of each question.
 */

struct answer {
	struct answer *next;
	char *name;
	unsigned expires;
};
static struct answer *negative[256];
static struct {
	char *name;
	void *addresses;
} positive[1500];

NOINLINE static void negative_store(const char *name, unsigned hash)
{
	struct answer *answer = malloc(sizeof(*answer));
	answer->name = strdup(name);
	answer->expires = 0;
	answer->next = negative[hash % ROOM(negative)];
	negative[hash % ROOM(negative)] = answer;
	corpus_keep("negative_store", sizeof(*answer) + strlen(name) + 1, 2);
}

NOINLINE static void positive_store(const char *name)
{
	static unsigned next;
	free(positive[next].name);
	free(positive[next].addresses);
	positive[next].name = strdup(name);
	positive[next].addresses = calloc(1 + corpus_random(6), 28);
	next = (next + 1) % ROOM(positive);
}

NOINLINE static void query_resolve(void)
{
	char name[64];
	unsigned hash = corpus_random(1u << 30);
	snprintf(name, sizeof(name), "h%u.shop%u.example.net", hash, hash % 37);
	unsigned char *packet = malloc(1232);
	memset(packet, 0, 1232);
	if (corpus_random(100) < 10)
		negative_store(name, hash);
	else
		positive_store(name);
	free(packet);
}

static void dns_negative(void)
{
	for (;;) {
		for (int i = 0; i < 6; i++) {
			query_resolve();
			for (int j = 0; j < 5; j++)
				request_serve(500);
		}
		corpus_tick();
	}
}

/*
 * ---- a registry of metrics: a label that is different for each customer ----
 * Three threads count requests; 150 series are of routes, and each 8th request names its customer in a label.
 * Beside it: the page that the scraper reads, twice in a pace, of 40 to 80 kB.
 */

struct series {
	struct series *next;
	unsigned long key, count;
	unsigned long buckets[14];
	char labels[];
};
static struct series *registry[4096];
static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;

NOINLINE static struct series *series_register(unsigned long key, const char *labels)
{
	size_t size = sizeof(struct series) + strlen(labels) + 1;
	struct series *series = calloc(1, size);
	strcpy(series->labels, labels);
	series->key = key;
	series->next = registry[key % ROOM(registry)];
	registry[key % ROOM(registry)] = series;
	if (key >= 150)
		corpus_keep("series_register", size, 1);
	return series;
}

NOINLINE static void metric_count(unsigned long key, const char *route, unsigned customer)
{
	char labels[96];
	pthread_mutex_lock(&registry_lock);
	struct series *series = registry[key % ROOM(registry)];
	while (series && series->key != key)
		series = series->next;
	if (!series) {
		snprintf(labels, sizeof(labels), "route=%s/%lu,customer=%u", route, key % 150,
			 customer);
		series = series_register(key, labels);
	}
	series->count++;
	series->buckets[corpus_random(14)]++;
	pthread_mutex_unlock(&registry_lock);
}

NOINLINE static void page_scrape(void)
{
	size_t size = 40000 + corpus_random(40000);
	char *page = malloc(size);
	memset(page, 'm', size);
	free(page);
}

static void *metrics_worker(void *first)
{
	unsigned long customer = (unsigned long)first << 40;
	for (unsigned i = 0;; i++) {
		request_serve(3000);
		if (i % 8 == 7)
			metric_count(150 + customer++, "account", i);
		else
			metric_count(corpus_random(150), "catalogue", 0);
		corpus_sleep(0.01);
	}
	return NULL;
}

static void metrics_labels(void)
{
	pthread_t thread;
	for (unsigned long i = 1; i <= 3; i++)
		pthread_create(&thread, NULL, metrics_worker, (void *)i);
	for (unsigned i = 0;; i++) {
		if (i % 50 == 0)
			page_scrape();
		corpus_tick();
	}
}

/*
 * ---- a transcoder: another scaler for each change of resolution ----
 * Each of three threads sets its scaler up anew, about three times in a pace, and forgets the rows of the old one.
 * Beside it: frames of a pool, packets, and a look-ahead of 12 frames in each thread.
 */

struct transcoder {
	unsigned char *rows, *filter;
	unsigned char *ahead[12];
	unsigned frame;
};

NOINLINE static void scaler_configure(struct transcoder *transcoder)
{
	size_t rows = 40000 + 8000 * corpus_random(8);
	transcoder->rows = malloc(rows);
	memset(transcoder->rows, 16, rows);
	corpus_keep("scaler_configure", rows, 1);
	free(transcoder->filter);
	transcoder->filter = malloc(2048);
	memset(transcoder->filter, 1, 2048);
}

NOINLINE static void frame_encode(struct transcoder *transcoder)
{
	unsigned at = transcoder->frame++ % ROOM(transcoder->ahead);
	size_t size = 60000 + corpus_random(30000);
	free(transcoder->ahead[at]);
	transcoder->ahead[at] = malloc(size);
	memset(transcoder->ahead[at], transcoder->rows[3], size);
	for (int i = 0; i < 6; i++)
		request_serve(1500);
}

static void *transcode(void *unused)
{
	struct transcoder transcoder = { 0 };
	(void)unused;
	scaler_configure(&transcoder);
	for (;;) {
		if (corpus_random(10) == 0)
			scaler_configure(&transcoder);
		frame_encode(&transcoder);
		corpus_sleep(0.03);
	}
	return NULL;
}

static void codec_reinit(void)
{
	pthread_t thread;
	for (int i = 0; i < 3; i++)
		pthread_create(&thread, NULL, transcode, NULL);
	for (;;)
		corpus_tick();
}

/*
 * ---- bounded: slabs of a cache server ----
 * Pages of 256 kB are cut into items of five sizes. 72 pages at most; then an item takes the place of an old one.
 * All the pages are there after about two and a half paces.
 */

enum { SLAB_PAGE = 256 * 1024, SLAB_PAGES = 72, SLAB_CLASSES = 5 };
static struct {
	char *pages[SLAB_PAGES];
	unsigned n_pages, used, hand;
} slabs[SLAB_CLASSES];
static unsigned slab_pages;

NOINLINE static char *slab_page_new(void)
{
	char *page = malloc(SLAB_PAGE);
	memset(page, 0, SLAB_PAGE);
	slab_pages++;
	return page;
}

NOINLINE static char *slab_item(unsigned class)
{
	unsigned size = 256u << (2 * class), per_page = SLAB_PAGE / size;
	if (slabs[class].used < slabs[class].n_pages * per_page) {
		unsigned item = slabs[class].used++;
		return slabs[class].pages[item / per_page] + item % per_page * size;
	}
	if (!slabs[class].n_pages || slab_pages < SLAB_PAGES) {
		slabs[class].pages[slabs[class].n_pages++] = slab_page_new();
		return slab_item(class);
	}
	unsigned item = slabs[class].hand++ % slabs[class].used;
	return slabs[class].pages[item / per_page] + item % per_page * size;
}

NOINLINE static void item_set(void)
{
	static const unsigned char classes[16] = { 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4 };
	unsigned class = classes[corpus_random(16)];
	char *command = malloc(48 + corpus_random(200));
	memset(command, 's', 48);
	memcpy(slab_item(class), command, 48);
	free(command);
}

static void slab_classes(void)
{
	/* Each class has its first page before the others may take them all. */
	for (unsigned class = 0; class < SLAB_CLASSES; class ++)
		slab_item(class);
	for (;;) {
		for (int i = 0; i < 9; i++) {
			item_set();
			request_serve(4000);
		}
		corpus_tick();
	}
}

/*
 * ---- bounded: a configuration that is replaced as a whole ----
 * A reload builds a new tree of routes, twice in a pace; three threads read. The old tree goes a pace later.
 */

struct route {
	struct route *next;
	char *pattern;
	void *matcher;
};
static struct route *current_routes;
static pthread_rwlock_t routes_lock = PTHREAD_RWLOCK_INITIALIZER;

NOINLINE static struct route *route_compile(unsigned i, struct route *next)
{
	char pattern[80];
	struct route *route = malloc(sizeof(*route));
	snprintf(pattern, sizeof(pattern), "^/v%u/tenants/[0-9a-f]+/items/%u$", i % 4, i);
	route->pattern = strdup(pattern);
	route->matcher = calloc(1, 100 + corpus_random(1500));
	route->next = next;
	return route;
}

NOINLINE static void routes_free(struct route *route)
{
	while (route) {
		struct route *next = route->next;
		free(route->pattern);
		free(route->matcher);
		free(route);
		route = next;
	}
}

NOINLINE static struct route *routes_load(void)
{
	struct route *routes = NULL;
	unsigned n = 280 + corpus_random(40);
	for (unsigned i = 0; i < n; i++)
		routes = route_compile(i, routes);
	return routes;
}

static void *route_reader(void *unused)
{
	(void)unused;
	for (;;) {
		request_serve(6000);
		pthread_rwlock_rdlock(&routes_lock);
		unsigned steps = corpus_random(200);
		for (struct route *route = current_routes; route && steps; route = route->next)
			steps -= route->pattern[0] == '^';
		pthread_rwlock_unlock(&routes_lock);
		corpus_sleep(0.01);
	}
	return NULL;
}

static void config_reloads(void)
{
	struct route *retired[2] = { NULL, NULL };
	pthread_t thread;
	for (int i = 0; i < 3; i++)
		pthread_create(&thread, NULL, route_reader, NULL);
	for (unsigned i = 0;; i++) {
		if (i % 50 == 0) {
			struct route *fresh = routes_load();
			routes_free(retired[i / 50 % 2]);
			pthread_rwlock_wrlock(&routes_lock);
			retired[i / 50 % 2] = current_routes;
			current_routes = fresh;
			pthread_rwlock_unlock(&routes_lock);
		}
		corpus_tick();
	}
}

/*
 * ---- bounded: deliveries that are tried again ----
 * A delivery fails three times of ten and waits for its next attempt, twice as long each time: 0.1 to 1.6 paces.
 * After five attempts it is given up. A third of them carry an attachment.
 */

struct delivery {
	struct delivery *next;
	char *attachment;
	unsigned attempt, size;
	char body[];
};
static struct delivery *wheel[256];

NOINLINE static struct delivery *delivery_accept(void)
{
	unsigned size = 300 + corpus_random(2500);
	struct delivery *delivery = malloc(sizeof(*delivery) + size);
	memset(delivery->body, 'd', size);
	delivery->size = size;
	delivery->attempt = 0;
	delivery->attachment = NULL;
	if (corpus_random(3) == 0) {
		size = 8000 + corpus_random(40000);
		delivery->attachment = malloc(size);
		memset(delivery->attachment, 'a', size);
	}
	return delivery;
}

NOINLINE static void delivery_attempt(struct delivery *delivery)
{
	request_serve(delivery->size);
	if (corpus_random(10) >= 3 || ++delivery->attempt == 5) {
		free(delivery->attachment);
		free(delivery);
		return;
	}
	unsigned at = (unsigned)(corpus_now + (10u << (delivery->attempt - 1))) % ROOM(wheel);
	delivery->next = wheel[at];
	wheel[at] = delivery;
}

static void retry_wheel(void)
{
	for (;;) {
		struct delivery *due = wheel[corpus_now % ROOM(wheel)];
		wheel[corpus_now % ROOM(wheel)] = NULL;
		while (due) {
			struct delivery *next = due->next;
			delivery_attempt(due);
			due = next;
		}
		for (int i = 0; i < 15; i++)
			delivery_attempt(delivery_accept());
		corpus_tick();
	}
}

static const struct scenario SCENARIOS[] = {
	{ "tls_handshakes", tls_handshakes }, { "dns_negative", dns_negative },
	{ "metrics_labels", metrics_labels }, { "codec_reinit", codec_reinit },
	{ "slab_classes", slab_classes },     { "config_reloads", config_reloads },
	{ "retry_wheel", retry_wheel },
};

CORPUS_MAIN(SCENARIOS)
