// SPDX-License-Identifier: GPL-2.0
/*
 * The system calls of mapping.bpf.c by trampolines at the functions of the kernel that make them. Tracepoints at some
 * system calls are a tax on all: while there are any the kernel goes the long way round, in and out of every system
 * call of every process. A trampoline is met by those alone that call its function.
 *
 * The functions get the registers of the caller, and change none of them. So what brings memory needs no program at the
 * begin of the call.
 */

#if defined(__TARGET_ARCH_x86)
#define CALL_NAME(call) "__x64_sys_" #call
#else
#define CALL_NAME(call) "__arm64_sys_" #call
#endif

/*
 * The thread that makes a call, if it is a target's, with its arguments. `ctx` holds those of the kernel's function. On its
 * own, since the registers would stand on the stack beneath a walk: all together have 512 bytes.
 */
static __noinline struct nl_thread *enter_call_of(const u64 *ctx, u32 kind, u32 n_args)
{
	struct syscall_enter call = {};

	if (!active_target(current_slot()) || !read_args(&call, (void *)ctx[0]))
		return 0;
	return enter_syscall(&call, kind, n_args);
}

#define ON_BEGIN(name, kind, n_args)                                         \
	SEC("fentry/" CALL_NAME(name))                                       \
	int on_##name##_begin(u64 *ctx)                                      \
	{                                                                    \
		struct nl_thread *thread = enter_call_of(ctx, kind, n_args); \
                                                                             \
		return thread ? report_begin(ctx, thread, kind) : 0;         \
	}

/* The end of a call of a known kind: only programs of those that have a stack hold the walk. */
static __always_inline int leave_call_of(u64 *ctx, u32 kind)
{
	struct nl_thread *thread = leaving_thread();

	return thread && thread->syscall == kind ? report_exit(ctx, ctx[1], thread, kind) : 0;
}

#define ON_END(name, kind)                       \
	SEC("fexit/" CALL_NAME(name))            \
	int on_##name##_end(u64 *ctx)            \
	{                                        \
		return leave_call_of(ctx, kind); \
	}

/* A call that is of no interest before its end. */
#define ON_WHOLE(name, kind, n_args)              \
	SEC("fexit/" CALL_NAME(name))             \
	int on_##name##_end(u64 *ctx)             \
	{                                         \
		enter_call_of(ctx, kind, n_args); \
		return leave_call_of(ctx, kind);  \
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

SEC("fentry/" CALL_NAME(brk))
int on_brk_begin(u64 *ctx)
{
	struct nl_thread *thread = enter_call_of(ctx, NL_EVENT_BRK, 1);

	if (thread)
		thread->syscall_args[1] = current_break();
	return 0;
}

ON_END(brk, NL_EVENT_BRK)
