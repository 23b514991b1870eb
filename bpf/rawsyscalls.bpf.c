// SPDX-License-Identifier: GPL-2.0
/*
 * The system calls of mapping.bpf.c by the two raw tracepoints that see all calls: these have no id that tracefs would
 * have to tell, so that they do without a mount of it and without the right to make one (CAP_SYS_ADMIN). They run at
 * every system call of the machine, so the loader takes them only where the others are not to be had.
 */

/* Source: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h (arm64). */
#if defined(__TARGET_ARCH_x86)
enum {
	CALL_MMAP = 9,
	CALL_MPROTECT = 10,
	CALL_MUNMAP = 11,
	CALL_BRK = 12,
	CALL_MREMAP = 25,
	CALL_SHMGET = 29,
	CALL_SHMAT = 30,
	CALL_SHMDT = 67,
	CALL_PKEY_MPROTECT = 329
};
#else
enum {
	CALL_MMAP = 222,
	CALL_MPROTECT = 226,
	CALL_MUNMAP = 215,
	CALL_BRK = 214,
	CALL_MREMAP = 216,
	CALL_SHMGET = 194,
	CALL_SHMAT = 196,
	CALL_SHMDT = 197,
	CALL_PKEY_MPROTECT = 288
};
#endif

/* The arguments of a call, from the registers they are passed in. Apart: these are not on our stack during a walk. */
static __noinline int read_args(struct syscall_enter *call, const void *from)
{
	struct pt_regs regs;

	if (bpf_probe_read_kernel(&regs, sizeof(regs), from))
		return 0;
#if defined(__TARGET_ARCH_x86)
	call->args[0] = regs.di;
	call->args[1] = regs.si;
	call->args[2] = regs.dx;
	call->args[3] = regs.r10;
	call->args[4] = regs.r8;
	call->args[5] = regs.r9;
#else
	for (int i = 0; i < 6; i++)
		call->args[i] = regs.regs[i];
#endif
	return 1;
}

SEC("raw_tp/sys_enter")
int on_raw_entry(struct bpf_raw_tracepoint_args *ctx)
{
	struct syscall_enter call = {};
	u64 nr = ctx->args[1];

	switch (nr) {
	case CALL_MMAP:
	case CALL_MPROTECT:
	case CALL_MUNMAP:
	case CALL_BRK:
	case CALL_MREMAP:
	case CALL_SHMGET:
	case CALL_SHMAT:
	case CALL_SHMDT:
	case CALL_PKEY_MPROTECT:
		break;
	default:
		return 0;
	}
	if (!active_target(current_slot()) || !read_args(&call, (void *)ctx->args[0]))
		return 0;
	switch (nr) {
	case CALL_MMAP:
		return keep_args(&call, NL_EVENT_MMAP, 6);
	case CALL_MPROTECT:
	case CALL_PKEY_MPROTECT:
		return keep_args(&call, NL_EVENT_MPROTECT, 3);
	case CALL_SHMGET:
		return keep_args(&call, NL_EVENT_SHMGET, 3);
	case CALL_SHMAT:
		return keep_args(&call, NL_EVENT_SHMAT, 3);
	case CALL_MUNMAP:
		return report_entry(&call, NL_EVENT_MUNMAP, 2);
	case CALL_MREMAP:
		return report_entry(&call, NL_EVENT_MREMAP, 5);
	case CALL_SHMDT:
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
