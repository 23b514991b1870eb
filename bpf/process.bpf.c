// SPDX-License-Identifier: GPL-2.0
/*
 * Threads and processes: rename, exit, exec and OOM kill. Raw tracepoints pass the kernel's own objects, so no record
 * format can change between releases.
 */
#include "common.bpf.h"
#include "events.bpf.h"
#include "inflight.bpf.h"
#include "nativeleak.h"
#include "targets.bpf.h"
#include "task.bpf.h"
#include "threads.bpf.h"

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
	/* The tracepoint fires before the name changes; its second argument is the new name. */
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
		if (thread->call != NL_ALLOC_CALL_NONE)
			abandon_call(thread);
	}
	/* Before the event is reserved: otherwise the verifier of Linux 6.1 loses track of it in BCC's build. */
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
	/* The address space is gone, and everything outstanding with it: the window ends here. */
	*state = NL_OFF;
	bpf_map_delete_elem(&slots, &tgid);
	event = new_event(NL_EVENT_EXEC, slot, 0);
	if (event)
		bpf_ringbuf_submit(event, 0);
	return 0;
}

/* Record of the tracepoint. Only the pid is read: it has been the first field in every release. */
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
