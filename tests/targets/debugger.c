// SPDX-License-Identifier: Apache-2.0
/*
 * Sets a breakpoint in a process as debuggers do: keeps the byte that it finds, and puts that back in the end. Each hit is
 * stepped over. READY: the breakpoint is set. The end of stdin ends it, and the breakpoint before.
 *
 * usage: debugger PID ADDRESS
 */
#include "truth.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

static pid_t pid;
static unsigned long address;
static unsigned char found;
static int memory;

static void put(unsigned char byte)
{
	TRUTH_CHECK(pwrite(memory, &byte, 1, (off_t)address) == 1);
}

static void step_over(void)
{
	struct user_regs_struct registers;
	int status;

	TRUTH_CHECK(!ptrace(PTRACE_GETREGS, pid, 0, &registers));
	TRUTH_CHECK(registers.rip == address + 1);
	registers.rip = address;
	TRUTH_CHECK(!ptrace(PTRACE_SETREGS, pid, 0, &registers));
	put(found);
	TRUTH_CHECK(!ptrace(PTRACE_SINGLESTEP, pid, 0, 0));
	TRUTH_CHECK(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
	put(0xcc);
}

int main(int argc, char **argv)
{
	struct pollfd command = { .fd = STDIN_FILENO, .events = POLLIN };
	char path[64];
	int status;

	TRUTH_CHECK(argc == 3);
	pid = atoi(argv[1]);
	address = strtoul(argv[2], NULL, 0);
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	TRUTH_CHECK(!ptrace(PTRACE_SEIZE, pid, 0, 0) && !ptrace(PTRACE_INTERRUPT, pid, 0, 0));
	TRUTH_CHECK(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
	memory = open(path, O_RDWR);
	TRUTH_CHECK(memory >= 0 && pread(memory, &found, 1, (off_t)address) == 1);
	put(0xcc);
	TRUTH_CHECK(!ptrace(PTRACE_CONT, pid, 0, 0));
	truth_ready();
	while (poll(&command, 1, 1) == 0) {
		if (waitpid(pid, &status, WNOHANG) != pid)
			continue;
		TRUTH_CHECK(WIFSTOPPED(status));
		if (WSTOPSIG(status) == SIGTRAP)
			step_over();
		TRUTH_CHECK(!ptrace(PTRACE_CONT, pid, 0,
				    WSTOPSIG(status) == SIGTRAP ? 0 : WSTOPSIG(status)));
	}
	TRUTH_CHECK(!ptrace(PTRACE_INTERRUPT, pid, 0, 0));
	TRUTH_CHECK(waitpid(pid, &status, 0) == pid && WIFSTOPPED(status));
	if (WSTOPSIG(status) == SIGTRAP && status >> 16 == 0)
		step_over();
	put(found);
	TRUTH_CHECK(!ptrace(PTRACE_DETACH, pid, 0, 0));
	return 0;
}
