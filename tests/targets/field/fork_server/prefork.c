/* A server that forks its workers beforehand: the master only waits; worker 2 of 3 leaks 50 blocks of 8,009 bytes a second
   in session_open(). Workers are replaced after 8 seconds, as pm.max_requests does it. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>
static unsigned long bytes, blocks;
__attribute__((noinline)) void *session_open(size_t n)
{
	char *p = malloc(n);
	memset(p, 1, n);
	bytes += n;
	++blocks;
	return p;
}
static void work(int w)
{
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	for (int i = 0; i < 400; ++i) {
		if (w == 2)
			session_open(8009);
		else
			free(malloc(100));
		usleep(20000);
		if (i % 25 == 0) {
			struct timespec t;
			clock_gettime(CLOCK_REALTIME, &t);
			printf("%ld.%03ld worker %d pid %d leaked_bytes %lu blocks %lu\n", t.tv_sec,
			       t.tv_nsec / 1000000, w, getpid(), bytes, blocks);
			fflush(stdout);
		}
	}
	exit(0);
}
int main(void)
{
	pid_t p[3] = { 0 };
	for (int w = 0; w < 3; ++w)
		if (!(p[w] = fork()))
			work(w + 1);
	for (;;) {
		pid_t d = wait(0);
		for (int w = 0; w < 3; ++w)
			if (p[w] == d && !(p[w] = fork()))
				work(w + 1);
	}
}
