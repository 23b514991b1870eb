// SPDX-License-Identifier: GPL-2.0
/*
 * The programs for BCC. It makes programs of functions in this file only, and it rewrites their bodies; so each is
 * written out and does nothing but call.
 */
#define NATIVELEAK_BCC
#include "alloc.bpf.c"
#include "exits.bpf.c"
#include "process.bpf.c"
#include "syscalls_tracepoint.bpf.c"
#include "syscalls_raw.bpf.c"

int run_on_alloc_entry(struct pt_regs *ctx)
{
	return on_alloc_entry(ctx);
}

int run_on_alloc_return(struct pt_regs *ctx)
{
	return on_alloc_return(ctx);
}

int run_on_alloc_session(struct pt_regs *ctx)
{
	return on_alloc_session(ctx);
}

int run_on_exits_entry(struct pt_regs *ctx)
{
	return on_exits_entry(ctx);
}

int run_on_alloc_exit(struct pt_regs *ctx)
{
	return on_alloc_exit(ctx);
}

int run_on_free(struct pt_regs *ctx)
{
	return on_free(ctx);
}

int run_on_retire(void *ctx)
{
	return on_retire(ctx);
}

int run_on_syscall_exit(struct syscall_exit *ctx)
{
	return on_syscall_exit(ctx);
}

int run_on_brk_entry(struct syscall_enter *ctx)
{
	return on_brk_entry(ctx);
}

int run_on_rename(struct bpf_raw_tracepoint_args *ctx)
{
	return on_rename(ctx);
}

int run_on_exit(struct bpf_raw_tracepoint_args *ctx)
{
	return on_exit(ctx);
}

int run_on_exec(struct bpf_raw_tracepoint_args *ctx)
{
	return on_exec(ctx);
}

int run_on_raw_entry(struct bpf_raw_tracepoint_args *ctx)
{
	return on_raw_entry(ctx);
}

int run_on_raw_exit(struct bpf_raw_tracepoint_args *ctx)
{
	return on_raw_exit(ctx);
}

int run_on_oom_kill(struct mark_victim *ctx)
{
	return on_oom_kill(ctx);
}

int run_on_mmap_entry(struct syscall_enter *ctx)
{
	return on_mmap_entry(ctx);
}

int run_on_munmap_entry(struct syscall_enter *ctx)
{
	return on_munmap_entry(ctx);
}

int run_on_mremap_entry(struct syscall_enter *ctx)
{
	return on_mremap_entry(ctx);
}

int run_on_mprotect_entry(struct syscall_enter *ctx)
{
	return on_mprotect_entry(ctx);
}

int run_on_pkey_mprotect_entry(struct syscall_enter *ctx)
{
	return on_pkey_mprotect_entry(ctx);
}

int run_on_shmget_entry(struct syscall_enter *ctx)
{
	return on_shmget_entry(ctx);
}

int run_on_shmat_entry(struct syscall_enter *ctx)
{
	return on_shmat_entry(ctx);
}

int run_on_shmdt_entry(struct syscall_enter *ctx)
{
	return on_shmdt_entry(ctx);
}
