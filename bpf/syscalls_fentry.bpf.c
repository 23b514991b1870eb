// SPDX-License-Identifier: GPL-2.0
/*
 * System calls by fentry and fexit programs at the kernel's functions that make them. Tracepoints at system calls slow
 * down every process: while one is attached, every system call takes the kernel's slow path in and out. An fentry
 * program costs only the callers of its function.
 *
 * The functions get the caller's registers and do not change them, so a call that brings memory needs no program at
 * its entry.
 */
#include "arch.bpf.h"
#include "common.bpf.h"
#include "nativeleak.h"
#include "syscalls.bpf.h"
#include "task.bpf.h"

#define ON_BEGIN(name, kind, n_args)                                              \
	SEC("fentry/" SYSCALL_FUNCTION(name))                                     \
	int on_##name##_begin(u64 *ctx)                                           \
	{                                                                         \
		struct nl_thread *thread = enter_by_registers(ctx, kind, n_args); \
                                                                                  \
		return thread ? report_begin(ctx, thread, kind) : 0;              \
	}

/* The exit of a call of a known kind, so that only programs of calls with a stack contain the walk. */
static __always_inline int leave_fexit(u64 *ctx, u32 kind)
{
	struct nl_thread *thread = leaving_thread();

	return thread && thread->syscall == kind ? report_exit(ctx, ctx[1], thread, kind) : 0;
}

#define ON_END(name, kind)                     \
	SEC("fexit/" SYSCALL_FUNCTION(name))   \
	int on_##name##_end(u64 *ctx)          \
	{                                      \
		return leave_fexit(ctx, kind); \
	}

/* A call that needs no program at its entry. */
#define ON_WHOLE(name, kind, n_args)                   \
	SEC("fexit/" SYSCALL_FUNCTION(name))           \
	int on_##name##_end(u64 *ctx)                  \
	{                                              \
		enter_by_registers(ctx, kind, n_args); \
		return leave_fexit(ctx, kind);         \
	}

ON_WHOLE(mmap, NL_EVENT_MMAP, 6)
ON_WHOLE(mprotect, NL_EVENT_MPROTECT, 3)
ON_WHOLE(pkey_mprotect, NL_EVENT_MPROTECT, 3)
ON_WHOLE(shmget, NL_EVENT_SHMGET, 3)
ON_WHOLE(shmat, NL_EVENT_SHMAT, 3)
ON_BEGIN(munmap, NL_EVENT_MUNMAP, 2)
ON_END(munmap, NL_EVENT_MUNMAP)
ON_BEGIN(mremap, NL_EVENT_MREMAP, 5)
ON_END(mremap, NL_EVENT_MREMAP)
ON_BEGIN(shmdt, NL_EVENT_SHMDT, 1)
ON_END(shmdt, NL_EVENT_SHMDT)

SEC("fentry/" SYSCALL_FUNCTION(brk))
int on_brk_begin(u64 *ctx)
{
	struct nl_thread *thread = enter_by_registers(ctx, NL_EVENT_BRK, 1);

	if (thread)
		thread->syscall_args[1] = current_break();
	return 0;
}

ON_END(brk, NL_EVENT_BRK)
