/* SPDX-License-Identifier: GPL-2.0 */
/* The kernel's structures of a task: ids, exit code, break, user registers. */
#ifndef NATIVELEAK_TASK_BPF_H
#define NATIVELEAK_TASK_BPF_H

#include "arch.bpf.h"
#include "common.bpf.h"
#include "nativeleak.h"

#ifndef NL_BLIND
#ifndef NATIVELEAK_BCC
/* libbpf relocates the offsets when it loads the object. */
struct signal_struct {
	int group_exit_code;
} __attribute__((preserve_access_index));

struct mm_struct {
	unsigned long brk;
} __attribute__((preserve_access_index));

/* A call whose return a return probe awaits. Source: include/linux/uprobes.h. */
struct return_instance {
	unsigned long stack;
	unsigned long orig_ret_vaddr;
	struct return_instance *next;
} __attribute__((preserve_access_index));

struct uprobe_task {
	struct return_instance *return_instances;
} __attribute__((preserve_access_index));

struct task_struct {
	int pid;
	int tgid;
	struct mm_struct *mm;
	int exit_code;
	struct signal_struct *signal;
	struct uprobe_task *utask;
	void *stack;
} __attribute__((preserve_access_index));
#endif

/* A field of a kernel structure; 0 if it cannot be read. */
#define READ_FIELD(from, field)                                                         \
	({                                                                              \
		__typeof__((from)->field) value_ = 0;                                   \
		bpf_probe_read_kernel(&value_, sizeof(value_), (void *)&(from)->field); \
		value_;                                                                 \
	})

/*
 * tgid << 32 | tid in the tracer's PID namespace. In the initial namespace this works for every task. In an inner one
 * only for the running task, which is the one that exits, executes, or renames itself; 0 for any other.
 */
static __always_inline u64 ids_of(struct task_struct *task)
{
	if (!pid_ns_inode)
		return (u64)READ_FIELD(task, tgid) << 32 | (u32)READ_FIELD(task, pid);
	return (u64)task == bpf_get_current_task() ? current_ids() : 0;
}

/* As wait(2) gives it: that of the process if the main thread ends. */
static __always_inline s64 exit_code_of(struct task_struct *task)
{
	s64 code = READ_FIELD(task, exit_code);
	struct signal_struct *signal = READ_FIELD(task, signal);

	if (READ_FIELD(task, pid) == READ_FIELD(task, tgid))
		code |= READ_FIELD(signal, group_exit_code);
	return code;
}

/* The break of the running process. */
static __always_inline u64 current_break(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct mm_struct *mm = READ_FIELD(task, mm);

	return READ_FIELD(mm, brk);
}

/*
 * User registers of the running thread. Without bpf_task_pt_regs they are at the end of the kernel stack. Source:
 * task_pt_regs in arch/x86/include/asm/processor.h.
 */
static __always_inline struct pt_regs *user_registers(void)
{
	struct task_struct *task;

	if (!(kernel_lacks & NL_LACKS_REGISTERS))
		return (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	if (KERNEL_STACK_BYTES == 0)
		return 0;
	task = (void *)bpf_get_current_task();
	return READ_FIELD(task, stack) + KERNEL_STACK_BYTES - sizeof(struct pt_regs);
}
#else
/* The kernel's structures are unknown. A task that exits or executes is the running one; a renamed one usually is. */
static __always_inline u64 ids_of(struct task_struct *task)
{
	(void)task;
	return current_ids();
}

static __always_inline s64 exit_code_of(struct task_struct *task)
{
	(void)task;
	return 0;
}

static __always_inline u64 current_break(void)
{
	return 0;
}
#endif

#endif /* NATIVELEAK_TASK_BPF_H */
