// SPDX-License-Identifier: GPL-2.0
/*
 * System calls by the two raw tracepoints that see all calls. They need no event id from tracefs, so they work without
 * a mount of it and without the right to mount it (CAP_SYS_ADMIN). They run at every system call of the machine, so
 * the loader uses them only where the others cannot attach.
 */
#include "arch.bpf.h"
#include "common.bpf.h"
#include "nativeleak.h"
#include "syscalls.bpf.h"
#include "task.bpf.h"

SEC("raw_tp/sys_enter")
int on_raw_entry(struct bpf_raw_tracepoint_args *ctx)
{
	struct nl_thread *thread;
	u32 type, n, reports = 0;

	switch (ctx->args[1]) {
	case NR_MMAP:
		type = NL_EVENT_MMAP;
		n = 6;
		break;
	case NR_MPROTECT:
	case NR_PKEY_MPROTECT:
		type = NL_EVENT_MPROTECT;
		n = 3;
		break;
	case NR_SHMGET:
		type = NL_EVENT_SHMGET;
		n = 3;
		break;
	case NR_SHMAT:
		type = NL_EVENT_SHMAT;
		n = 3;
		break;
	case NR_BRK:
		type = NL_EVENT_BRK;
		n = 1;
		break;
	case NR_MUNMAP:
		type = NL_EVENT_MUNMAP;
		n = 2;
		reports = 1;
		break;
	case NR_MREMAP:
		type = NL_EVENT_MREMAP;
		n = 5;
		reports = 1;
		break;
	case NR_SHMDT:
		type = NL_EVENT_SHMDT;
		n = 1;
		reports = 1;
		break;
	default:
		return 0;
	}
	thread = enter_by_registers(ctx->args, type, n);
	if (!thread)
		return 0;
	if (type == NL_EVENT_BRK)
		thread->syscall_args[1] = current_break();
	return reports ? report_begin(ctx, thread, type) : 0;
}

SEC("raw_tp/sys_exit")
int on_raw_exit(struct bpf_raw_tracepoint_args *ctx)
{
	return leave_syscall(ctx, (s64)ctx->args[1]);
}
