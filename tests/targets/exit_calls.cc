/*
 * Calls every allocating function by its name, with many sizes and on all ways to fail, so that whoever steps it sees each
 * of their paths. Stops itself by SIGSTOP when all is loaded. Compiles as C too, for musl.
 *
 * argv: rounds, [aborts: its operator new ends the process where it would have to throw]. Takes the functions of the
 * object that malloc is in: the C library's, or those of an allocator that is preloaded.
 */
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#ifdef __cplusplus
#include <new>
#endif

#define N_KEPT 997

typedef void *(*size_call)(size_t);
typedef void *(*pair_call)(size_t, size_t);
typedef void *(*realloc_call)(void *, size_t);
typedef void *(*array_call)(void *, size_t, size_t);
typedef int (*posix_call)(void **, size_t, size_t);
typedef void (*free_call)(void *);

static void *kept[N_KEPT];
static unsigned n_kept;
static int new_aborts;
static uint64_t state = 88172645463325252ull;

static const size_t impossible[] = { SIZE_MAX,	  SIZE_MAX - 4096, SIZE_MAX / 2 + 1,
				     PTRDIFF_MAX, 1ull << 47,	   1ull << 46 };

static uint64_t next(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static size_t some_size(void)
{
	static const size_t bounds[] = { 32, 256, 1024, 4096, 40000, 300000, 3000000 };

	return next() % bounds[next() % 7];
}

static void keep(void *block)
{
	unsigned place = next() % N_KEPT;

	free(kept[place]);
	kept[place] = block;
	n_kept++;
}

/* Of another object's function neither the exits are looked at nor could its blocks be freed. */
static void *find(const char *name)
{
	void *function = dlsym(RTLD_DEFAULT, name);
	Dl_info of_malloc, of_this;

	if (!function || !dladdr(dlsym(RTLD_DEFAULT, "malloc"), &of_malloc) ||
	    !dladdr(function, &of_this))
		return 0;
	return of_this.dli_fbase == of_malloc.dli_fbase ? function : 0;
}

#define CALL(type, name, expression)          \
	do {                                  \
		type call;                    \
		*(void **)&call = find(name); \
		if (call)                     \
			keep(expression);     \
	} while (0)

static void *by_posix(posix_call call, size_t alignment, size_t size)
{
	void *block = 0;

	return call(&block, alignment, size) ? 0 : block;
}

/* What realloc gets must be out of the table: it may free it. */
static void *take(void)
{
	unsigned place = next() % N_KEPT;
	void *block = kept[place];

	kept[place] = 0;
	return block;
}

static void *grown(realloc_call call, size_t size)
{
	void *old = take(), *block = call(old, size);

	if (!block && size && old)
		free(old);
	return block;
}

static void *grown_array(array_call call, size_t n, size_t size)
{
	void *old = take(), *block = call(old, n, size);

	if (!block && n && size && old)
		free(old);
	return block;
}

static void call_c(size_t size, size_t alignment)
{
	size_t n = 1 + next() % 9;

	CALL(size_call, "malloc", call(size));
	CALL(size_call, "valloc", call(size));
	CALL(size_call, "pvalloc", call(size));
	CALL(pair_call, "calloc", call(n, size));
	CALL(pair_call, "aligned_alloc", call(alignment, size));
	CALL(pair_call, "memalign", call(alignment, size));
	CALL(posix_call, "posix_memalign", by_posix(call, alignment, size));
	CALL(realloc_call, "realloc", call(0, size));
	CALL(realloc_call, "realloc", grown(call, size));
	CALL(array_call, "reallocarray", grown_array(call, n, size));
	CALL(size_call, "mi_zalloc", call(size));
}

#ifdef __cplusplus
#define NEW(type, name, expression)                   \
	do {                                          \
		try {                                 \
			CALL(type, name, expression); \
		} catch (...) {                       \
		}                                     \
	} while (0)

typedef void *(*nothrow_call)(size_t, const std::nothrow_t &);
typedef void *(*nothrow_pair)(size_t, size_t, const std::nothrow_t &);

/* A handler may throw only bad_alloc out of a nothrow function. */
static int is_nothrow;

static void call_cxx(size_t size, size_t alignment)
{
	/* With an alignment that is none the behaviour is not defined. */
	if (!alignment || alignment & (alignment - 1))
		alignment = 64;
	is_nothrow = 0;
	NEW(size_call, "_Znwm", call(size));
	NEW(size_call, "_Znam", call(size));
	NEW(pair_call, "_ZnwmSt11align_val_t", call(size, alignment));
	NEW(pair_call, "_ZnamSt11align_val_t", call(size, alignment));
	is_nothrow = 1;
	NEW(nothrow_call, "_ZnwmRKSt9nothrow_t", call(size, std::nothrow));
	NEW(nothrow_call, "_ZnamRKSt9nothrow_t", call(size, std::nothrow));
	NEW(nothrow_pair, "_ZnwmSt11align_val_tRKSt9nothrow_t",
	    call(size, alignment, std::nothrow));
	NEW(nothrow_pair, "_ZnamSt11align_val_tRKSt9nothrow_t",
	    call(size, alignment, std::nothrow));
}

static int n_handled;

static void handle(void)
{
	if (n_handled++ % 3 == 2 && !is_nothrow)
		throw n_handled;
	if (n_handled % 3 == 1)
		throw std::bad_alloc();
	std::set_new_handler(0);
}
#else
static void call_cxx(size_t size, size_t alignment)
{
	(void)size;
	(void)alignment;
}
#endif

static void call_all(size_t size, size_t alignment)
{
	call_c(size, alignment);
	if (!new_aborts)
		call_cxx(size, alignment);
}

static void empty(void)
{
	for (unsigned i = 0; i < N_KEPT; i++) {
		free(kept[i]);
		kept[i] = 0;
	}
}

static void work(int n)
{
	static const size_t alignments[] = { 8, 16, 64, 512, 4096, 65536 };

	for (int i = 0; i < n; i++) {
		size_t size = some_size(), alignment = alignments[next() % 6];

		call_all(size, alignment);
		if (new_aborts)
			call_cxx(size, alignment);
	}
	for (unsigned i = 0; i < sizeof(impossible) / sizeof(*impossible); i++)
		call_all(impossible[i], alignments[i]);
	call_all(0, 16);
	call_c(100, 24); /* no power of two */
	call_c(100, 1ull << 63);
	call_c(100, SIZE_MAX);
	call_c(100, 1);
	empty();
}

/* Under a limit that is met at once for large blocks, and soon for small ones. */
static void work_in_need(int n)
{
	struct rlimit before, limit;

	getrlimit(RLIMIT_AS, &before);
	limit = before;
	limit.rlim_cur = 1 << 20;
	setrlimit(RLIMIT_AS, &limit);
	for (int i = 0; i < n; i++) {
#ifdef __cplusplus
		std::set_new_handler(i % 2 ? handle : 0);
#endif
		call_all(i % 8 ? some_size() : 3000000, 64);
	}
	setrlimit(RLIMIT_AS, &before);
#ifdef __cplusplus
	std::set_new_handler(0);
#endif
	empty();
}

static void *wait_for_ever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

int main(int argc, char **argv)
{
	int n = argc > 1 ? atoi(argv[1]) : 100;
	pthread_t thread;

	new_aborts = argc > 2;
	setvbuf(stdout, 0, _IONBF, 0);
	free(malloc(1));
	raise(SIGSTOP);
	work(n);
	work_in_need(n);
	/* From now on the allocator locks. */
	if (pthread_create(&thread, 0, wait_for_ever, 0))
		return 1;
	work(n);
	work_in_need(n);
	printf("called %u\n", n_kept);
	_exit(0);
}
