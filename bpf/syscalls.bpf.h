/* SPDX-License-Identifier: GPL-2.0 */
/*
 * System calls that change an address space. User space keeps the map of intervals; events are made here in the order
 * in which the kernel acts. A call that takes memory away reports at its entry, before another thread can be given the
 * place; a call that brings memory reports at its exit. These probes run in every process of the machine, so each
 * first checks whether the process is a target.
 *
 * Three files attach to the calls: syscalls_fentry.bpf.c, syscalls_tracepoint.bpf.c and syscalls_raw.bpf.c. The loader
 * loads one of them.
 */
#ifndef NATIVELEAK_SYSCALLS_BPF_H
#define NATIVELEAK_SYSCALLS_BPF_H

#include "arch.bpf.h"
#include "common.bpf.h"
#include "counters.bpf.h"
#include "events.bpf.h"
#include "inflight.bpf.h"
#include "nativeleak.h"
#include "scratch.bpf.h"
#include "stack.bpf.h"
#include "targets.bpf.h"
#include "task.bpf.h"
#include "threads.bpf.h"

#define MAX_ERRNO 4095

/*
 * Record of a sys_enter tracepoint. Source: /sys/kernel/tracing/events/syscalls/sys_enter_mmap/format; the same for
 * every call.
 */
struct syscall_enter {
	u64 common;
	s64 nr;
	u64 args[6];
};

struct syscall_exit {
	u64 common;
	s64 nr;
	s64 ret;
};

static __always_inline int failed(s64 ret)
{
	return (u64)ret >= (u64)-MAX_ERRNO;
}

/* Flags of an event of a thread. */
static __always_inline u32 flags_of(const struct nl_thread *thread)
{
#ifdef NL_BLIND
	return thread->call == NL_ALLOC_CALL_NONE ? 0 : NL_IN_ALLOCATOR;
#else
	u64 sp;

	if (thread->call == NL_ALLOC_CALL_NONE)
		return 0;
	if (bpf_probe_read_kernel(&sp, sizeof(sp), &REG_SP(user_registers())))
		return NL_IN_ALLOCATOR;
	return is_inside_call(thread, sp) ? NL_IN_ALLOCATOR : 0;
#endif
}

/*
 * Copy only the arguments that the call has: the kernel refuses a program that reads beyond the tracepoint's record.
 * `n` is a constant at every caller.
 */
static __always_inline void copy_args(u64 *to, struct syscall_enter *ctx, int n)
{
#pragma unroll
	for (int i = 0; i < 6; i++)
		to[i] = i < n ? ctx->args[i] : 0;
}

/*
 * Read the arguments of a call from its saved registers. Returns whether they could be read. Not inlined, because the
 * registers must not stay on the BPF stack during a walk.
 */
static __noinline int read_args(struct syscall_enter *call, const void *from)
{
	struct pt_regs regs;

	if (bpf_probe_read_kernel(&regs, sizeof(regs), from))
		return 0;
	syscall_args_of(&regs, call->args);
	return 1;
}

/* Note the call that the running thread makes, if it is a target's. Returns the thread, or 0. */
static __always_inline struct nl_thread *enter_syscall(struct syscall_enter *ctx, u32 type, int n)
{
	u32 slot = current_slot();
	struct nl_thread *thread;

	if (!active_target(slot))
		return 0;
	thread = thread_of(current_ids(), slot);
	if (!thread) {
		/* The thread table is full: this change of the address space is not seen. */
		count(NL_LOST_EVENTS);
		return 0;
	}
	thread->syscall = type;
	copy_args(thread->syscall_args, ctx, n);
	return thread;
}

/*
 * The same for a program whose first argument is a pointer to the saved registers. Not inlined: the arguments of the
 * call would stay on the BPF stack below a walk, and all frames together have 512 bytes.
 */
static __noinline struct nl_thread *enter_by_registers(const u64 *ctx, u32 type, u32 n)
{
	struct syscall_enter call = {};

	if (!active_target(current_slot()) || !read_args(&call, (void *)ctx[0]))
		return 0;
	return enter_syscall(&call, type, n);
}

/* Entry of a call that reports at its exit. */
static __always_inline int keep_args(struct syscall_enter *ctx, u32 type, int n)
{
	enter_syscall(ctx, type, n);
	return 0;
}

#ifndef NATIVELEAK_BCC
/* Find the return addresses that return probes have replaced: the kernel keeps the original ones. */
static __always_inline void find_replaced_returns(struct scratch *scr)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct uprobe_task *utask = BPF_CORE_READ(task, utask);
	struct return_instance *call = utask ? BPF_CORE_READ(utask, return_instances) : 0;

	for (u32 i = 0; i < NL_REPLACED_RETURNS; i++) {
		scr->replaced[i].at = 0;
		if (!call)
			continue;
		scr->replaced[i].at = BPF_CORE_READ(call, stack);
		scr->replaced[i].address = BPF_CORE_READ(call, orig_ret_vaddr);
		scr->n_replaced = 1;
		call = BPF_CORE_READ(call, next);
	}
}
#endif

#ifdef NL_BLIND
/* The place of the registers is unknown, so the kernel walks, by frame pointers. Returns the key of the stack. */
static __noinline u64 syscall_stack(void *ctx, u32 slot)
{
	struct nl_target *target = active_target(slot);
	struct scratch *scr;
	long n_bytes;
	u64 key;

	if (!target)
		return 0;
	scr = take_scratch();
	if (!scr) {
		count(NL_NO_SCRATCH);
		return 0;
	}
	begin_stack(scr, target, slot);
	n_bytes = bpf_get_stack(ctx, scr->window, 8 * NL_SEARCH_WORDS, BPF_F_USER_STACK);
	for (int i = 0; i < NL_SEARCH_WORDS; i++)
		if (i * 8 < n_bytes)
			push_frame(scr, scr->window[i], 0);
	key = stack_key(scr);
	store_stack(scr, key);
	release_scratch(scr);
	return key;
}
#else
/* Walk the stack at a system call; the leaf is the code that made it. Returns its key, 0 if there is none. */
static __noinline u64 syscall_stack(void *ctx, u32 slot)
{
	struct pt_regs *regs = user_registers();
	struct nl_target *target = active_target(slot);
	struct scratch *scr;
	u64 ip, sp, fp, key;

	(void)ctx;
	if (!target || bpf_probe_read_kernel(&ip, sizeof(ip), &REG_IP(regs)) ||
	    bpf_probe_read_kernel(&sp, sizeof(sp), &REG_SP(regs)) ||
	    bpf_probe_read_kernel(&fp, sizeof(fp), &REG_FP(regs)))
		return 0;
	scr = take_scratch();
	if (!scr) {
		count(NL_NO_SCRATCH);
		return 0;
	}
	begin_stack(scr, target, slot);
	scr->pc = ip;
	scr->sp = sp;
	scr->fp = fp;
#ifndef NATIVELEAK_BCC
	find_replaced_returns(scr);
#endif
	if (HAS_TABLES(target)) {
		walk_tables(scr->index);
	} else {
		push_frame(scr, ip, 0);
		if (ip >= target->wrappers_start && ip < target->wrappers_end) {
			u64 lr;

			if (!HAS_LINK_REGISTER)
				push_wrapper_caller(scr, target, ip);
			else if (!read_link_register(regs, &lr))
				push_frame(scr, lr, 0);
		}
		walk_frame_pointers(scr->index);
	}
	key = stack_key(scr);
	store_stack(scr, key);
	release_scratch(scr);
	return key;
}
#endif

/* Report a call at its entry: the memory is about to go. */
static __always_inline int report_begin(void *ctx, struct nl_thread *thread, u32 type)
{
	struct nl_event *event;
	u32 slot, uid, flags;
	u64 stack = 0;

	/* Copied before the walk, else the verifier checks the rest once for each way to find the thread. */
	slot = thread->slot;
	uid = thread->uid;
	flags = flags_of(thread);
	/*
	 * munmap: the stack is walked here, because a thread may unmap its own stack. The other calls walk at their exit,
	 * because each program with a walk costs the verifier the same again.
	 */
	if (type == NL_EVENT_MUNMAP && !(flags & NL_IN_ALLOCATOR))
		stack = syscall_stack(ctx, slot);
	event = new_event(type, slot, uid);
	if (!event)
		return 0;
	for (int i = 0; i < 6; i++)
		event->args[i] = thread->syscall_args[i];
	event->stack = stack;
	event->flags = flags;
	bpf_ringbuf_submit(event, 0);
	return 0;
}

static __always_inline int report_entry(struct syscall_enter *ctx, u32 type, int n)
{
	struct nl_thread *thread = enter_syscall(ctx, type, n);

	return thread ? report_begin(ctx, thread, type) : 0;
}

/* Report a call at its exit. */
static __always_inline int report_exit(void *ctx, s64 ret, struct nl_thread *thread, u32 type)
{
	struct nl_event *event;
	int has_stack = 0;
	u64 stack = 0;

	thread->syscall = NL_EVENT_NONE;
	count(NL_SYSCALLS);
	switch (type) {
	case NL_EVENT_MUNMAP:
		/* Reported at the entry; only a failure is new. */
		if (!failed(ret))
			return 0;
		type = NL_EVENT_MUNMAP_FAILED;
		break;
	case NL_EVENT_SHMDT:
		type = failed(ret) ? NL_EVENT_SHMDT_FAILED : NL_EVENT_SHMDT_DONE;
		has_stack = !failed(ret);
		break;
	case NL_EVENT_MREMAP:
		type = NL_EVENT_MREMAP_DONE;
		has_stack = !failed(ret);
		break;
	case NL_EVENT_MMAP:
	case NL_EVENT_SHMAT:
	case NL_EVENT_BRK:
		if (failed(ret))
			return 0;
		has_stack = 1;
		break;
	default:
		if (failed(ret))
			return 0;
	}
	/* One place, because BCC inlines the walk at each. */
	if (has_stack)
		stack = syscall_stack(ctx, thread->slot);
	event = new_event(type, thread->slot, thread->uid);
	if (!event)
		return 0;
	for (int i = 0; i < 6; i++)
		event->args[i] = thread->syscall_args[i];
	event->stack = stack;
	event->ret = ret;
	event->flags = flags_of(thread);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

/* The running thread at the exit of a call, if it is a target's and the entry was seen; else 0. */
static __always_inline struct nl_thread *leaving_thread(void)
{
	u32 tid = (u32)current_ids();
	struct nl_thread *thread;

	if (!active_target(current_slot()))
		return 0;
	thread = find_thread(tid);
	return thread && thread->syscall != NL_EVENT_NONE ? thread : 0;
}

static __always_inline int leave_syscall(void *ctx, s64 ret)
{
	struct nl_thread *thread = leaving_thread();

	return thread ? report_exit(ctx, ret, thread, thread->syscall) : 0;
}

#endif /* NATIVELEAK_SYSCALLS_BPF_H */
