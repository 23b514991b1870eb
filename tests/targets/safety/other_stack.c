/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A signal interrupts malloc; its handler runs on an alternate stack, allocates too, and returns. argv: high or low, where
 * the alternate stack lies as seen from the thread's own.
 */
#include "own.h"
#include <signal.h>
#include <sys/mman.h>

#define N_ROUNDS 2003
#define STACK_BYTES (1 << 20)

static int n_signals, at_high;
static pid_t own_pid;

/* Its stack goes on in the function that was interrupted, so that this is the site of its blocks too. */
static void handle(int number)
{
	(void)number;
	TRUTH_CHECK(malloc(61));
	truth_add(truth_at("loop_allocates", "heap"), 61);
	n_signals++;
}

/* In the middle of malloc, of the outer one only. */
static void interrupt(void)
{
	static int depth;

	if (depth++ == 0)
		TRUTH_CHECK(!syscall(SYS_tgkill, own_pid, truth_tid(), SIGUSR1));
	depth--;
}

SITE void loop_allocates(int i)
{
	void *block = malloc(101);

	TRUTH_CHECK(block);
	truth_add(TRUTH_HEAP(), 101);
	if (i % 7) {
		free(block);
		truth_drop(TRUTH_HEAP(), 101);
	}
}

static void *work(void *stack)
{
	stack_t alternate = { .ss_sp = stack, .ss_size = STACK_BYTES };

	TRUTH_CHECK(!sigaltstack(&alternate, NULL));
	truth_start();
	hook = interrupt;
	for (int i = 0; i < N_ROUNDS; i++)
		loop_allocates(i);
	hook = NULL;
	TRUTH_CHECK(n_signals == N_ROUNDS);
	truth_report(true, 0, "");
	truth_stay();
	return NULL;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = handle, .sa_flags = SA_ONSTACK };
	char *stacks = mmap(NULL, 4 * STACK_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	pthread_attr_t attributes;
	pthread_t thread;

	at_high = argc > 1 && !strcmp(argv[1], "high");
	own_pid = getpid();
	TRUTH_CHECK(stacks != MAP_FAILED && !sigaction(SIGUSR1, &action, NULL));
	pthread_attr_init(&attributes);
	pthread_attr_setstack(&attributes, at_high ? stacks : stacks + 2 * STACK_BYTES,
			      STACK_BYTES);
	TRUTH_CHECK(!pthread_create(&thread, &attributes, work,
				    at_high ? stacks + 2 * STACK_BYTES : stacks));
	pthread_join(thread, NULL);
}
