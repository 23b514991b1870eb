// SPDX-License-Identifier: Apache-2.0
/*
 * Holds blocks in every way that a C program can, and loses some; see held.h for the truth.
 *
 * held FILE [THREADS [INITIALISES]]: with threads, tables of blocks are replaced and moved at full speed, and one block of
 * 20,000 is lost. `stop` ends them and prints their operations; `grow N` loses N more blocks.
 */
#include "truth.h"

#include "held.h"

#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

/* The names are those of test_holders.py. */
enum kind {
	ARRAY,
	LIST,
	INTRUSIVE,
	TREE,
	HASH,
	INTERIOR,
	END,
	THREAD_LOCAL,
	SPECIFIC,
	SLEEPING_STACK,
	SPINNING_STACK,
	SLEEPING_REGISTER,
	LOW_TAG,
	HIGH_TAG,
	ANONYMOUS,
	SHARED,
	PACKED,
	EPOLL,
	TIMER,
	XOR_LIST,
	COMPRESSED,
	ENCRYPTED,
	LOST,
	LOST_LIST,
	LOST_CYCLE,
	LOST_TREE,
	CHURN,
	LOST_RUNNING,
};

#define N 2003
#define SCRUB (64 << 10)

struct node {
	struct node *next;
	long filling[4];
};

struct link {
	struct link *next, *previous;
};

struct item {
	char name[24];
	struct link link;
	void *payload;
};

struct branch {
	struct branch *left, *right, *parent;
	uint64_t key;
	void *value;
};

struct xor_node {
	uint64_t both;
	long filling[3];
};

struct __attribute__((packed)) packed {
	uint32_t id;
	void *block;
};

struct cell {
	void *block;
	uint64_t filling;
};

void **g_array;
struct node *g_list;
struct link g_items = { &g_items, &g_items };
struct branch *g_tree;
struct node *g_hash[512];
char *g_interior[N], *g_end[101];
uintptr_t g_low[N], g_high[N];
void **g_anonymous, **g_shared;
struct packed g_packed[503];
uint64_t g_xor_head, g_xor_tail;
uint32_t g_compressed[N];
uint64_t g_encrypted[101];
__thread void *volatile thread_local_blocks[53];
static pthread_key_t specific;
static volatile int stops;
static int initialises;

__attribute__((noinline)) static void *take(size_t size, enum kind kind)
{
	void *block = calloc(1, size);

	held_note(block, size, kind);
	return block;
}

static uint64_t number(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void *sleeper(void *ready)
{
	void *blocks[23];
	register void *only asm("rbx");

	for (int i = 0; i < 23; i++)
		blocks[i] = take(300 + i, SLEEPING_STACK);
	for (int i = 0; i < 53; i++)
		thread_local_blocks[i] = take(140, THREAD_LOCAL);
	pthread_setspecific(specific, take(900, SPECIFIC));
	pthread_setname_np(pthread_self(), "sleeper");
	asm volatile("" ::"r"(blocks) : "memory");
	only = take(777, SLEEPING_REGISTER);
	__atomic_fetch_add((int *)ready, 1, __ATOMIC_SEQ_CST);
	for (;;) {
		pause();
		asm volatile("" : "+r"(only)::"memory");
	}
	return only;
}

static void *spinner(void *ready)
{
	void *blocks[23];

	for (int i = 0; i < 23; i++)
		blocks[i] = take(400 + i, SPINNING_STACK);
	pthread_setname_np(pthread_self(), "spinner");
	__atomic_fetch_add((int *)ready, 1, __ATOMIC_SEQ_CST);
	for (uint64_t i = 0; !stops; i++) {
		asm volatile("" ::"r"(blocks) : "memory");
		++*(long *)blocks[i % 23];
		if (i % 4096 == 0)
			usleep(100);
	}
	pause();
	return blocks[0];
}

static void *churner(void *argument)
{
	uint64_t state = 88172645463325252ull + (uint64_t)argument * 7919, operations = 0;
	const int n = 20011;
	struct cell *table = calloc(n, sizeof(*table));

	held_note(table, n * sizeof(*table), CHURN);
	pthread_setname_np(pthread_self(), "churner");
	while (!stops) {
		struct cell *cell = &table[number(&state) % n], *other = &table[number(&state) % n];
		void *moved;

		if (!cell->block) {
			size_t size = 24 + number(&state) % 480;

			cell->block = malloc(size);
			if (initialises)
				memset(cell->block, 0, size);
			*(long *)cell->block = 0;
		} else if (number(&state) % 20000 == 0) {
			held_note(cell->block, 0, LOST_RUNNING);
			cell->block = NULL;
		} else {
			free(cell->block);
			cell->block = NULL;
		}
		moved = cell->block;
		cell->block = other->block;
		other->block = moved;
		if (!(++operations & 1023))
			__atomic_fetch_add(&held_file->n_operations, 1024, __ATOMIC_RELAXED);
	}
	pause();
	return table;
}

static void hold_structures(void)
{
	uint64_t state = 12345;

	g_array = take(N * sizeof(*g_array), ARRAY);
	for (int i = 0; i < N; i++) {
		struct item *item = take(sizeof(*item), INTRUSIVE);
		struct node *node = take(sizeof(*node), LIST),
			    *hashed = take(sizeof(*hashed), HASH);
		struct branch *branch = take(sizeof(*branch), TREE), **place = &g_tree,
			      *parent = NULL;

		g_array[i] = take(32 + i % 200, ARRAY);
		node->next = g_list;
		g_list = node;
		item->payload = take(64, INTRUSIVE);
		item->link.next = g_items.next;
		item->link.previous = &g_items;
		g_items.next->previous = &item->link;
		g_items.next = &item->link;
		branch->key = number(&state);
		branch->value = take(80, TREE);
		while (*place) {
			parent = *place;
			place = branch->key < parent->key ? &parent->left : &parent->right;
		}
		*place = branch;
		branch->parent = parent;
		hashed->next = g_hash[i % 512];
		g_hash[i % 512] = hashed;
	}
}

static void hold_pointers(void)
{
	struct xor_node *before = NULL, *last = NULL;
	int epoll = epoll_create1(0);

	g_anonymous = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	g_shared = mmap(0, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < N; i++) {
		struct xor_node *node = take(sizeof(*node), XOR_LIST);

		g_interior[i] = (char *)take(200, INTERIOR) + 64;
		g_low[i] = (uintptr_t)take(100, LOW_TAG) | (1 + i % 7);
		g_high[i] = (uintptr_t)take(100, HIGH_TAG) | (uint64_t)(i + 1) << 48;
		g_compressed[i] = (uint32_t)((uintptr_t)take(120, COMPRESSED) >> 4);
		if (last)
			last->both = (uint64_t)before ^ (uint64_t)node;
		else
			g_xor_head = (uint64_t)node;
		before = last;
		last = node;
	}
	last->both = (uint64_t)before;
	g_xor_tail = (uint64_t)last;
	for (int i = 0; i < 503; i++) {
		g_anonymous[8 * i] = take(150, ANONYMOUS);
		g_shared[8 * i] = take(150, SHARED);
		g_packed[i].id = i;
		g_packed[i].block = take(170, PACKED);
	}
	for (int i = 0; i < 101; i++) {
		struct epoll_event event = { .events = EPOLLIN, .data.ptr = take(250, EPOLL) };
		struct sigevent told = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGURG };
		timer_t timer;

		g_end[i] = (char *)take(104, END) + 104;
		g_encrypted[i] = (uint64_t)take(260, ENCRYPTED) ^ 0x1122334455667788ull;
		epoll_ctl(epoll, EPOLL_CTL_ADD, eventfd(0, EFD_CLOEXEC), &event);
		told.sigev_value.sival_ptr = take(270, TIMER);
		timer_create(CLOCK_MONOTONIC, &told, &timer);
	}
}

static void lose(int n)
{
	for (int i = 0; i < n; i++)
		take(48 + i % 300, LOST);
}

static void lose_structures(void)
{
	lose(20 * N);
	for (int list = 0; list < 11; list++) {
		struct node *head = NULL;

		for (int i = 0; i < N / 10; i++) {
			struct node *node = take(sizeof(*node), LOST_LIST);

			node->next = head;
			head = node;
		}
	}
	for (int cycle = 0; cycle < 101; cycle++) {
		struct node *first = take(sizeof(*first), LOST_CYCLE), *node = first;

		for (int i = 0; i < 9; i++) {
			node->next = take(sizeof(*node), LOST_CYCLE);
			node = node->next;
		}
		node->next = first;
	}
	for (int tree = 0; tree < 101; tree++) {
		struct branch *root = take(sizeof(*root), LOST_TREE);

		root->left = take(sizeof(*root), LOST_TREE);
		root->right = take(sizeof(*root), LOST_TREE);
		root->left->parent = root->right->parent = root;
		root->value = take(5003, LOST_TREE);
	}
}

/* What earlier calls left on the stack would hold lost blocks. */
__attribute__((noinline)) static void scrub(void)
{
	volatile char filling[SCRUB];

	memset((char *)filling, 0, sizeof(filling));
}

int main(int argc, char **argv)
{
	long n_threads = argc > 2 ? atol(argv[2]) : 0;
	int ready = 0;
	pthread_t thread;
	char line[64];

	if (argc < 2)
		return 2;
	initialises = argc < 4 || atoi(argv[3]);
	held_open(argv[1]);
	pthread_key_create(&specific, NULL);
	hold_structures();
	hold_pointers();
	lose_structures();
	scrub();
	pthread_create(&thread, NULL, sleeper, &ready);
	pthread_create(&thread, NULL, spinner, &ready);
	while (__atomic_load_n(&ready, __ATOMIC_SEQ_CST) < 2)
		usleep(1000);
	for (long i = 0; i < n_threads; i++)
		pthread_create(&thread, NULL, churner, (void *)i);
	dprintf(STDOUT_FILENO, "READY %d\n", getpid());
	for (;;) {
		ssize_t n = read(STDIN_FILENO, line, sizeof(line) - 1);

		if (n <= 0)
			return 0;
		line[n] = 0;
		if (!strncmp(line, "grow ", 5))
			lose(atoi(line + 5));
		else if (!strncmp(line, "stop", 4))
			stops = 1;
		scrub();
		dprintf(STDOUT_FILENO, "{\"operations\": %lu}\n",
			(unsigned long)held_file->n_operations);
	}
}
