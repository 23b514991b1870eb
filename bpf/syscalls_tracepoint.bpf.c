// SPDX-License-Identifier: GPL-2.0
/* System calls by their tracepoints in tracefs: one program for each entry, one for all exits. */
#include "common.bpf.h"
#include "nativeleak.h"
#include "syscalls.bpf.h"
#include "task.bpf.h"

/* One program for all exits, because each program with a walk costs the verifier the same again. */
SEC("tp/syscalls/sys_exit_mmap")
int on_syscall_exit(struct syscall_exit *ctx)
{
	return leave_syscall(ctx, ctx->ret);
}

#define ON_ENTRY(call, kind, n_args, report)             \
	SEC("tp/syscalls/sys_enter_" #call)              \
	int on_##call##_entry(struct syscall_enter *ctx) \
	{                                                \
		return report(ctx, kind, n_args);        \
	}

ON_ENTRY(mmap, NL_EVENT_MMAP, 6, keep_args)
ON_ENTRY(munmap, NL_EVENT_MUNMAP, 2, report_entry)
ON_ENTRY(mremap, NL_EVENT_MREMAP, 5, report_entry)
ON_ENTRY(mprotect, NL_EVENT_MPROTECT, 3, keep_args)
ON_ENTRY(pkey_mprotect, NL_EVENT_MPROTECT, 3, keep_args)
/* shmat does not give the length of the segment, shmget does. */
ON_ENTRY(shmget, NL_EVENT_SHMGET, 3, keep_args)
ON_ENTRY(shmat, NL_EVENT_SHMAT, 3, keep_args)
ON_ENTRY(shmdt, NL_EVENT_SHMDT, 1, report_entry)

/* Keeps the old break: /proc gives it by the page only, and the first call of a trace may move it by less. */
SEC("tp/syscalls/sys_enter_brk")
int on_brk_entry(struct syscall_enter *ctx)
{
	struct nl_thread *thread = enter_syscall(ctx, NL_EVENT_BRK, 1);

	if (thread)
		thread->syscall_args[1] = current_break();
	return 0;
}
