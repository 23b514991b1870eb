/*
 * A process that calls itself and its threads whatever the kernel allows, and allocates in a library of a name and with
 * function names just as bad.
 *
 *   hostile LIBRARY: allocates in its function `take`, in one thread for each of the names below
 *
 * Thread i, counted from 1, keeps i blocks of 1009 bytes. The answer to `go` has their ids.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const names[] = {
	"\033[2J\033[31mred",
	"a;b;c 12",
	"line\nline",
	"\r\b\b\bover",
	"\xff\xfe\xc3(",
	"<script>alert",
	"\xe2\x80\xaertl",
	"%s%n%s%n",
	"[red]rich[/]",
	"",
	" ",
	"$(reboot) `id`",
	"\033]0;title\007",
	"'\"\\,{}",
};
#define N_NAMES (sizeof(names) / sizeof(names[0]))

static void *(*take)(size_t size);
static void *volatile kept[N_NAMES][N_NAMES];
static long tids[N_NAMES];
static pthread_barrier_t done;

static void *work(void *argument)
{
	size_t index = (size_t)argument;

	prctl(PR_SET_NAME, names[index]);
	tids[index] = syscall(SYS_gettid);
	for (size_t i = 0; i <= index; i++)
		kept[index][i] = take(1009);
	pthread_barrier_wait(&done);
	pause();
	return NULL;
}

int main(int argc, char **argv)
{
	char line[64];
	pthread_t thread;
	void *library = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;

	if (!library) {
		fprintf(stderr, "hostile: %s\n", dlerror());
		return 2;
	}
	take = (void *(*)(size_t))dlsym(library, "take");
	prctl(PR_SET_NAME, names[0]);
	pthread_barrier_init(&done, NULL, N_NAMES + 1);
	printf("READY %d\n", getpid());
	fflush(stdout);
	if (!take || !fgets(line, sizeof(line), stdin))
		return 2;
	for (size_t i = 0; i < N_NAMES; i++)
		pthread_create(&thread, NULL, work, (void *)i);
	pthread_barrier_wait(&done);
	printf("{\"tids\": [");
	for (size_t i = 0; i < N_NAMES; i++)
		printf("%s%ld", i ? ", " : "", tids[i]);
	printf("]}\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
		;
	return 0;
}
