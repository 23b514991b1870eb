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
#include "targets.bpf.h"

SEC("raw_tp/sys_enter")
int on_raw_entry(struct bpf_raw_tracepoint_args *ctx)
{
	struct syscall_enter call = {};
	u64 nr = ctx->args[1];

	switch (nr) {
	case NR_MMAP:
	case NR_MPROTECT:
	case NR_MUNMAP:
	case NR_BRK:
	case NR_MREMAP:
	case NR_SHMGET:
	case NR_SHMAT:
	case NR_SHMDT:
	case NR_PKEY_MPROTECT:
		break;
	default:
		return 0;
	}
	if (!active_target(current_slot()) || !read_args(&call, (void *)ctx->args[0]))
		return 0;
	switch (nr) {
	case NR_MMAP:
		return keep_args(&call, NL_EVENT_MMAP, 6);
	case NR_MPROTECT:
	case NR_PKEY_MPROTECT:
		return keep_args(&call, NL_EVENT_MPROTECT, 3);
	case NR_SHMGET:
		return keep_args(&call, NL_EVENT_SHMGET, 3);
	case NR_SHMAT:
		return keep_args(&call, NL_EVENT_SHMAT, 3);
	case NR_MUNMAP:
		return report_entry(&call, NL_EVENT_MUNMAP, 2);
	case NR_MREMAP:
		return report_entry(&call, NL_EVENT_MREMAP, 5);
	case NR_SHMDT:
		return report_entry(&call, NL_EVENT_SHMDT, 1);
	default:
		return enter_brk(&call);
	}
}

SEC("raw_tp/sys_exit")
int on_raw_exit(struct bpf_raw_tracepoint_args *ctx)
{
	return leave_syscall(ctx, (s64)ctx->args[1]);
}
