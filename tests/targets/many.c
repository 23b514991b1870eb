/*
 * A process with a great many of something.
 *
 *   many threads N         N threads, each with a name and a stack of its own
 *   many maps N            N mappings that the kernel cannot merge
 *   many late N            the same, made at `go`
 *   many code N LIBRARY    N executable mappings of its second page, below all libraries
 *   many objects N FOLDER  N libraries, FOLDER/0.so and so on, each with a function `take`
 *
 * All are there before READY. At `go` every thread, each library, or else the main thread keeps a block of 1009 bytes, and
 * the answer says how many blocks there are; `more` is the same once more.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define BLOCK_BYTES 1009
#define PAGE 4096L

typedef void *take_fn(size_t size);

static long n_blocks, n;
static pthread_barrier_t begin, done;
static take_fn **takes;
static int is_late;

__attribute__((noipa)) static void *keep(size_t size)
{
	char *block = malloc(size);

	if (!block)
		abort();
	block[0] = 1;
	__atomic_fetch_add(&n_blocks, 1, __ATOMIC_RELAXED);
	return block;
}

static void *work(void *argument)
{
	char name[16];

	snprintf(name, sizeof(name), "worker-%ld", (long)argument);
	prctl(PR_SET_NAME, name);
	pthread_barrier_wait(&done);
	for (;;) {
		pthread_barrier_wait(&begin);
		keep(BLOCK_BYTES);
		pthread_barrier_wait(&done);
	}
	return NULL;
}

static void start_threads(void)
{
	pthread_attr_t attributes;
	pthread_t thread;

	pthread_attr_init(&attributes);
	pthread_attr_setstacksize(&attributes, 32 << 10);
	pthread_barrier_init(&begin, NULL, (unsigned int)n + 1);
	pthread_barrier_init(&done, NULL, (unsigned int)n + 1);
	for (long i = 0; i < n; i++)
		if (pthread_create(&thread, &attributes, work, (void *)i)) {
			fprintf(stderr, "many: only %ld threads\n", i);
			exit(2);
		}
	pthread_barrier_wait(&done);
}

/* Every second one of other rights: neighbours of the same kind would be one mapping. */
static void make_maps(void)
{
	for (long i = 0; i < n; i++) {
		int rights = i % 2 ? PROT_READ : PROT_READ | PROT_WRITE;

		if (mmap(NULL, PAGE, rights, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) {
			fprintf(stderr, "many: only %ld mappings\n", i);
			exit(2);
		}
	}
}

static void map_code(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	/* Room that leaves a gap behind each. */
	char *room = mmap(NULL, 2 * PAGE * n, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	for (long i = 0; i < n; i++)
		if (fd < 0 || mmap(room + 2 * PAGE * i, PAGE, PROT_READ | PROT_EXEC,
				   MAP_PRIVATE | MAP_FIXED, fd, PAGE) == MAP_FAILED) {
			perror("many");
			exit(2);
		}
}

static void load_objects(const char *folder)
{
	char path[4096];

	takes = calloc((size_t)n, sizeof(takes[0]));
	for (long i = 0; i < n; i++) {
		void *library;

		snprintf(path, sizeof(path), "%s/%ld.so", folder, i);
		library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
		takes[i] = library ? (take_fn *)dlsym(library, "take") : NULL;
		if (!takes[i]) {
			fprintf(stderr, "many: %s\n", dlerror());
			exit(2);
		}
	}
}

static void go(int has_threads)
{
	if (has_threads) {
		pthread_barrier_wait(&begin);
		pthread_barrier_wait(&done);
	} else if (takes) {
		for (long i = 0; i < n; i++, n_blocks++)
			if (!takes[i](BLOCK_BYTES))
				exit(2);
	} else {
		if (is_late)
			make_maps();
		keep(BLOCK_BYTES);
	}
}

int main(int argc, char **argv)
{
	const char *kind = argc > 2 ? argv[1] : "";
	int has_threads = !strcmp(kind, "threads");
	char line[64];

	n = argc > 2 ? atol(argv[2]) : 0;
	if (has_threads)
		start_threads();
	else if (!strcmp(kind, "late"))
		is_late = 1;
	else if (!strcmp(kind, "maps"))
		make_maps();
	else if (!strcmp(kind, "code") && argc > 3)
		map_code(argv[3]);
	else if (!strcmp(kind, "objects") && argc > 3)
		load_objects(argv[3]);
	else
		return 2;
	setvbuf(stdout, NULL, _IOLBF, 4096);
	printf("READY %d\n", getpid());
	setvbuf(stdin, NULL, _IONBF, 0);
	while (fgets(line, sizeof(line), stdin)) {
		go(has_threads);
		printf("{\"blocks\": %ld}\n", n_blocks);
	}
	return 0;
}
