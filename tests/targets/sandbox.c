// SPDX-License-Identifier: Apache-2.0
/*
 * Runs a program under ptrace, as online judges do: system calls that it does not know fail with ENOSYS. It ends as the
 * program does.
 *
 * usage: sandbox PROGRAM [ARGUMENT...]
 */
#include "truth.h"
#include <errno.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#define FIRST_UNKNOWN 335
#define FIRST_KNOWN 424

static bool is_inside, is_denied;

static void on_call(pid_t pid)
{
	struct user_regs_struct registers;

	ptrace(PTRACE_GETREGS, pid, 0, &registers);
	is_inside = !is_inside;
	if (is_inside && registers.orig_rax >= FIRST_UNKNOWN && registers.orig_rax < FIRST_KNOWN) {
		registers.orig_rax = (unsigned long)-1;
		is_denied = true;
	} else if (!is_inside && is_denied) {
		registers.rax = (unsigned long)-ENOSYS;
		is_denied = false;
	} else {
		return;
	}
	ptrace(PTRACE_SETREGS, pid, 0, &registers);
}

int main(int argc, char **argv)
{
	int status;
	pid_t pid = fork();

	TRUTH_CHECK(argc > 1 && pid >= 0);
	if (!pid) {
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		raise(SIGSTOP);
		execv(argv[1], argv + 1);
		_exit(127);
	}
	waitpid(pid, &status, 0);
	ptrace(PTRACE_SETOPTIONS, pid, 0, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
	while (!WIFEXITED(status) && !WIFSIGNALED(status)) {
		int signum = WSTOPSIG(status);

		if (signum == (SIGTRAP | 0x80))
			on_call(pid);
		if (signum == (SIGTRAP | 0x80) || signum == SIGTRAP || signum == SIGSTOP)
			signum = 0;
		ptrace(PTRACE_SYSCALL, pid, 0, signum);
		if (waitpid(pid, &status, 0) < 0)
			break;
	}
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
