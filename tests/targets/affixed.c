// SPDX-License-Identifier: Apache-2.0
/*
 * Calls every function of an allocator whose names have a prefix and a suffix, and knows what each call asked for.
 * Arguments: library (a bare name: beside the program), prefix, suffix. One site for each form of arguments. Of three
 * blocks that a function makes one stays; the others are freed by each freeing function in turn.
 *
 * Incomplete: the loader and the allocator map for themselves.
 */
#include "truth.h"
#include <dlfcn.h>
#include <libgen.h>

#define ALIGNMENT 16ul
#define KEPT_OF 3

typedef void *(*function)();

static void *library;
static const char *prefix, *suffix;
static unsigned int turn;

/* A name that is not there makes the loader allocate: all are looked up once before the trace. */
static bool is_looking_up;
static struct {
	char stem[32];
	function address;
} known[128];
static int n_known;

static function find(const char *stem)
{
	char name[128];

	for (int i = 0; i < n_known; i++)
		if (!strcmp(known[i].stem, stem))
			return known[i].address;
	TRUTH_CHECK(is_looking_up && n_known < 128 && strlen(stem) < sizeof(known[0].stem));
	snprintf(name, sizeof(name), "%s%s%s", prefix, stem, suffix);
	strcpy(known[n_known].stem, stem);
	known[n_known].address = (function)dlsym(library, name);
	return known[n_known++].address;
}

/* Sizes are odd multiples of 16: every form of free may be told them. */
static size_t size_of_turn(void)
{
	return 16 * (2 * (turn++ % 97) + 3);
}

static void release(struct block block)
{
	static const char *const plain[] = { "free", "cfree", "delete", "deletearray",
					     "delete_nothrow" };
	static const char *const sized[] = { "free_size", "delete_sized", "free_sized" };
	static const char *const aligned[] = { "free_aligned", "delete_aligned" };
	const unsigned int n_forms = 12;

	if (is_looking_up) {
		for (int i = 0; i < 5; i++)
			find(plain[i]);
		for (int i = 0; i < 3; i++)
			find(sized[i]);
		for (int i = 0; i < 2; i++)
			find(aligned[i]);
		find("sdallocx");
		find("dallocx");
		find("heap_get_default");
		return;
	}

	for (unsigned int i = turn;; i++) {
		unsigned int form = i % n_forms;
		function call;

		if (form < 5 && (call = find(plain[form])))
			call(block.address);
		else if (form >= 5 && form < 8 && (call = find(sized[form - 5])))
			call(block.address, block.bytes);
		else if (form >= 8 && form < 10 && (call = find(aligned[form - 8])))
			call(block.address, ALIGNMENT);
		else if (form == 10 && (call = find("sdallocx")))
			call(block.address, block.bytes, 0);
		else if (form == 11 && (call = find("dallocx")))
			call(block.address, 0);
		else
			continue;
		break;
	}
	truth_drop(block.site, block.bytes);
}

static void keep_some(struct block block, int i)
{
	TRUTH_CHECK(block.address);
	memset(block.address, 1, (size_t)block.bytes);
	if (i % KEPT_OF)
		release(block);
}

#define FOR_EACH(...)                                               \
	static const char *const stems[] = { __VA_ARGS__ };         \
	struct truth_site *site = TRUTH_HEAP();                     \
	for (size_t k = 0; k < sizeof(stems) / sizeof(*stems); k++) \
		for (int i = 0; find(stems[k]) && !is_looking_up && i < KEPT_OF; i++)

#define MAKE(name, arguments, ...)                                                          \
	SITE void name(void)                                                                \
	{                                                                                   \
		FOR_EACH(__VA_ARGS__)                                                       \
		{                                                                           \
			size_t n = size_of_turn();                                          \
			keep_some(truth_block(find(stems[k]) arguments, (long)n, site), i); \
		}                                                                           \
	}

MAKE(make_sized, (n, ALIGNMENT, 0ul), "malloc", "zalloc", "malloc_aligned", "zalloc_aligned",
     "malloc_aligned_at", "zalloc_aligned_at", "new", "new_nothrow", "new_aligned",
     "new_aligned_nothrow", "newarray", "newarray_nothrow", "malloc_skip_new_handler",
     "aligned_malloc")
MAKE(make_flagged, (n, 0), "mallocx")
MAKE(make_counted, (n / 16, 16ul, ALIGNMENT, 0ul), "calloc", "calloc_aligned", "calloc_aligned_at",
     "mallocn", "new_n")
MAKE(make_aligned, (ALIGNMENT, n), "memalign", "aligned_alloc")
MAKE(make_in_heap, (find("heap_get_default")(), n, ALIGNMENT, 0ul), "heap_malloc", "heap_zalloc",
     "heap_malloc_aligned", "heap_zalloc_aligned", "heap_malloc_aligned_at", "heap_alloc_new")
MAKE(make_counted_in_heap, (find("heap_get_default")(), n / 16, 16ul, ALIGNMENT), "heap_calloc",
     "heap_mallocn", "heap_calloc_aligned")

SITE void make_by_address(void)
{
	FOR_EACH("posix_memalign")
	{
		size_t n = size_of_turn();
		void *address = NULL;

		TRUTH_CHECK(!find(stems[k])(&address, ALIGNMENT, n));
		keep_some(truth_block(address, (long)n, site), i);
	}
}

SITE struct block make_old(void)
{
	struct truth_site *site = TRUTH_HEAP();
	size_t n = size_of_turn();

	return truth_block(find("malloc")(n), (long)n, site);
}

#define REMAKE(name, arguments, ...)                                                          \
	SITE void name(function call, struct block old, int i)                                \
	{                                                                                     \
		struct truth_site *site = TRUTH_HEAP();                                       \
		size_t n = size_of_turn();                                                    \
		void *address = call arguments;                                               \
		truth_drop(old.site, old.bytes);                                              \
		keep_some(truth_block(address, (long)n, site), i);                            \
	}                                                                                     \
	static void all_##name(void)                                                          \
	{                                                                                     \
		static const char *const stems[] = { __VA_ARGS__ };                           \
		for (size_t k = 0; k < sizeof(stems) / sizeof(*stems); k++)                   \
			for (int i = 0; find(stems[k]) && !is_looking_up && i < KEPT_OF; i++) \
				name(find(stems[k]), make_old(), i);                          \
	}

REMAKE(remake, (old.address, n, ALIGNMENT, 0ul), "realloc", "rezalloc", "realloc_aligned",
       "realloc_aligned_at", "rezalloc_aligned", "reallocf", "new_realloc", "aligned_realloc")
REMAKE(remake_flagged, (old.address, n, 0), "rallocx")
REMAKE(remake_counted, (old.address, n / 16, 16ul, ALIGNMENT), "reallocarray", "reallocn",
       "recalloc", "recalloc_aligned", "new_reallocn")
REMAKE(remake_in_heap, (find("heap_get_default")(), old.address, n, ALIGNMENT), "heap_realloc",
       "heap_rezalloc", "heap_realloc_aligned", "heap_reallocf")

static void call_all(void)
{
	make_sized();
	make_flagged();
	make_counted();
	make_aligned();
	make_in_heap();
	make_counted_in_heap();
	make_by_address();
	all_remake();
	all_remake_flagged();
	all_remake_counted();
	all_remake_in_heap();
}

int main(int argc, char **argv)
{
	char path[4096];

	TRUTH_CHECK(argc == 4);
	prefix = argv[2];
	suffix = argv[3];
	snprintf(path, sizeof(path), "%s", argv[0]);
	dirname(path);
	snprintf(path + strlen(path), sizeof(path) - strlen(path), "/%s", argv[1]);
	library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	if (!library)
		library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
	if (!library)
		truth_fail(dlerror());
	is_looking_up = true;
	release((struct block){ 0 });
	call_all();
	is_looking_up = false;
	truth_n_sites = 0;
	TRUTH_CHECK(find("malloc") && find("free"));
	truth_start();
	call_all();
	truth_report(false, 0, "");
	truth_stay();
}
