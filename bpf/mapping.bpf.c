// SPDX-License-Identifier: GPL-2.0
/*
 * Address space, and the life of threads and processes. User space keeps the interval map; here events are
 * made in the order in which the kernel acts: what takes memory away reports at its entry, before another
 * thread can be given the place; what brings memory reports at its exit. These probes see every process of
 * the machine, so the first thing each does is to look whether the process is a target.
 */
#include "common.bpf.h"
#include "stack.bpf.h"
#include "task.bpf.h"

#define PROT_EXEC 4
#define MAX_ERRNO 4095

/* Source: /sys/kernel/tracing/events/syscalls/sys_enter_mmap/format; the same for every system call. */
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

static __always_inline u32 flags_of(const struct nl_thread *thread)
{
#ifdef NL_BLIND
	return thread->call == NL_CALL_NONE ? 0 : NL_IN_ALLOCATOR;
#else
	u64 sp;

	if (thread->call == NL_CALL_NONE)
		return 0;
	if (bpf_probe_read_kernel(&sp, sizeof(sp), &REG_SP(user_registers())))
		return NL_IN_ALLOCATOR;
	return is_inside_call(thread, sp) ? NL_IN_ALLOCATOR : 0;
#endif
}

/*
 * Exactly the arguments that the call has: the kernel refuses a program that reads beyond the tracepoint's
 * record. `n` is a constant at every caller.
 */
static __always_inline void copy_args(u64 *to, struct syscall_enter *ctx, int n)
{
#pragma unroll
	for (int i = 0; i < 6; i++)
		to[i] = i < n ? ctx->args[i] : 0;
}

static __always_inline struct nl_thread *enter_syscall(struct syscall_enter *ctx, u32 type, int n)
{
	u32 slot = current_slot();
	struct nl_thread *thread;

	if (!active_target(slot))
		return 0;
	thread = thread_of(current_ids(), slot);
	if (!thread) {
		/* No room for the thread: what it does to the address space goes unseen. */
		count(NL_LOST_EVENTS);
		return 0;
	}
	thread->syscall = type;
	copy_args(thread->syscall_args, ctx, n);
	return thread;
}

static __always_inline int keep_args(struct syscall_enter *ctx, u32 type, int n)
{
	enter_syscall(ctx, type, n);
	return 0;
}

#ifndef NATIVELEAK_BCC
/* The calls in flight whose return addresses return probes have replaced: the kernel keeps the true ones. */
static __always_inline void find_replaced_returns(struct scratch *scr)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct uprobe_task *utask = BPF_CORE_READ(task, utask);
	struct return_instance *call = utask ? BPF_CORE_READ(utask, return_instances) : 0;

	for (u32 i = 0; i < NL_HIJACKED; i++) {
		scr->hijacked[i].at = 0;
		if (!call)
			continue;
		scr->hijacked[i].at = BPF_CORE_READ(call, stack);
		scr->hijacked[i].address = BPF_CORE_READ(call, orig_ret_vaddr);
		scr->n_hijacked = 1;
		call = BPF_CORE_READ(call, next);
	}
}
#endif

#ifdef NL_BLIND
/* The registers are not to be found: the kernel walks, by frame pointers. */
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
/* The stack at a system call: the leaf is the code that made it. */
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
#if defined(__TARGET_ARCH_arm64)
			u64 lr;

			if (!bpf_probe_read_kernel(&lr, sizeof(lr), &REG_LR(regs)))
				push_frame(scr, lr, 0);
#else
			push_wrapper_caller(scr, target, ip);
#endif
		}
		walk_frame_pointers(scr->index);
	}
	key = stack_key(scr);
	store_stack(scr, key);
	release_scratch(scr);
	return key;
}
#endif

/* Report at the entry of a thread's call: the memory is about to go. */
static __always_inline int report_begin(void *ctx, struct nl_thread *thread, u32 type)
{
	struct nl_event *event;
	u32 slot, uid, flags;
	u64 stack = 0;

	/* Not by way of the thread after a walk: a verifier would go through that for each way to find the thread. */
	slot = thread->slot;
	uid = thread->uid;
	flags = flags_of(thread);
	/*
	 * Who gives memory back: here, since a thread may unmap its own stack. Of the others the stack is taken at their
	 * exit, since each program that has the walk costs the verifier as much again.
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

/* The exit of a call of a thread. */
static __always_inline int report_exit(void *ctx, s64 ret, struct nl_thread *thread, u32 type)
{
	struct nl_event *event;
	int has_stack = 0;
	u64 stack = 0;

	thread->syscall = NL_EVENT_NONE;
	count(NL_SYSCALLS);
	switch (type) {
	case NL_EVENT_MUNMAP:
		/* Reported at the entry: only a failure is news. */
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
	/* In one place: BCC writes it out at each. */
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

/* The thread whose call ends, if it is a target's and the begin was seen: otherwise its end is of no use. */
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

/* One program for all exits, since the verifier goes through the walk once for each program that has it. */
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
/* How long a shared segment is, the attach does not say. */
ON_ENTRY(shmget, NL_EVENT_SHMGET, 3, keep_args)
ON_ENTRY(shmat, NL_EVENT_SHMAT, 3, keep_args)
ON_ENTRY(shmdt, NL_EVENT_SHMDT, 1, report_entry)

/* With the break as it was: /proc tells it to the page only, and the first call of a trace may move it by less. */
static __always_inline int enter_brk(struct syscall_enter *ctx)
{
	struct nl_thread *thread = enter_syscall(ctx, NL_EVENT_BRK, 1);

	if (thread)
		thread->syscall_args[1] = current_break();
	return 0;
}

SEC("tp/syscalls/sys_enter_brk")
int on_brk_entry(struct syscall_enter *ctx)
{
	return enter_brk(ctx);
}

/* Raw tracepoints give the kernel's own objects: no format that could change between releases. */

SEC("raw_tp/task_rename")
int on_rename(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0];
	u64 ids = ids_of(task);
	u32 tgid = ids >> 32, tid = (u32)ids;
	u32 *slot = bpf_map_lookup_elem(&slots, &tgid);
	struct nl_thread *thread;
	struct nl_event *event;

	if (!slot)
		return 0;
	thread = find_thread(tid);
	event = new_event(NL_EVENT_THREAD, *slot, thread ? thread->uid : 0);
	if (!event)
		return 0;
	/* The tracepoint fires before the name changes: the new one is its second argument. */
	event->tid = tid;
	bpf_probe_read_kernel_str(event->comm, sizeof(event->comm), (void *)ctx->args[1]);
	bpf_ringbuf_submit(event, 0);
	return 0;
}

SEC("raw_tp/sched_process_exit")
int on_exit(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0];
	u64 ids = ids_of(task);
	u32 tgid = ids >> 32, tid = (u32)ids;
	u32 *slot = bpf_map_lookup_elem(&slots, &tgid);
	struct nl_thread *thread;
	struct nl_event *event;
	u32 uid = 0;

	if (!slot)
		return 0;
	thread = find_thread(tid);
	if (thread) {
		uid = thread->uid;
		if (thread->call != NL_CALL_NONE)
			abandon_call(thread);
	}
	/* Before the event is made: verifiers as that of Linux 6.1 take a test of it later for one that may fail. */
	drop_thread(tid);
	event = new_event(NL_EVENT_THREAD_EXIT, *slot, uid);
	if (!event)
		return 0;
	event->tid = tid;
	event->ret = exit_code_of(task);
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	bpf_ringbuf_submit(event, 0);
	return 0;
}

SEC("raw_tp/sched_process_exec")
int on_exec(struct bpf_raw_tracepoint_args *ctx)
{
	struct task_struct *task = (void *)ctx->args[0];
	u32 tgid = ids_of(task) >> 32;
	u32 *found = bpf_map_lookup_elem(&slots, &tgid), slot, *state;
	struct nl_event *event;

	if (!found)
		return 0;
	slot = *found;
	state = bpf_map_lookup_elem(&windows, &slot);
	if (!state)
		return 0;
	/* The address space is gone, and with it all that was outstanding: the window ends here. */
	*state = NL_OFF;
	bpf_map_delete_elem(&slots, &tgid);
	event = new_event(NL_EVENT_EXEC, slot, 0);
	if (event)
		bpf_ringbuf_submit(event, 0);
	return 0;
}

/* Only the victim's pid is read: it has been the first field in every release. */
struct mark_victim {
	u64 common;
	int pid;
};

SEC("tp/oom/mark_victim")
int on_oom_kill(struct mark_victim *ctx)
{
	u32 tgid = ctx->pid;
	u32 *slot = bpf_map_lookup_elem(&slots, &tgid);
	struct nl_event *event;

	if (!slot)
		return 0;
	event = new_event(NL_EVENT_OOM_KILL, *slot, 0);
	if (event)
		bpf_ringbuf_submit(event, 0);
	return 0;
}
