/* SPDX-License-Identifier: GPL-2.0 */
/* Threads of the targets, from their first call to their end. */
#ifndef NATIVELEAK_THREADS_BPF_H
#define NATIVELEAK_THREADS_BPF_H

#include "common.bpf.h"
#include "counters.bpf.h"
#include "events.bpf.h"
#include "nativeleak.h"

/*
 * Direct-mapped cache of threads: 1 + low bits of the tid -> thread. Element 0 is never used; it is the only one
 * where the cache is off. Nothing is deleted: an entry whose owner has exited is free.
 */
NL_MAP(thread_cache, ARRAY, u32, struct nl_thread, 1 + NL_THREAD_CACHE_SIZE, 0);

/*
 * tid -> thread whose cache entry is taken by another. Deleted when the thread ends. Full: its calls are counted as
 * lost.
 */
NL_MAP(threads, HASH, u32, struct nl_thread, 1 << 15, BPF_F_NO_PREALLOC);

/* [0]: the last uid that was given to a thread. */
NL_MAP(uids, ARRAY, u32, u64, 1, 0);

/* Unused uid; 0 when exhausted. */
static __always_inline u32 new_uid(void)
{
	u32 zero = 0;
	u64 *last = bpf_map_lookup_elem(&uids, &zero);

	if (!last)
		return 0;
	if (!(kernel_lacks & NL_LACKS_ATOMICS))
		return atomic_fetch_and_add(last, 1) + 1;
	/* Each CPU counts on its own. */
	zero = NL_NUMBERED;
	last = bpf_map_lookup_elem(&counters, &zero);
	if (!last)
		return 0;
	*(volatile u64 *)last += 1;
	return (*(volatile u64 *)last - 1) * n_cpus + bpf_get_smp_processor_id() + 1;
}

/* The cache entry of a tid, whoever owns it. */
static __always_inline struct nl_thread *cached_thread(u32 tid)
{
	u32 index = 1 + (tid & (NL_THREAD_CACHE_SIZE - 1));

	return bpf_map_lookup_elem(&thread_cache, &index);
}

/* The thread of a tid; 0 if it is unknown. */
static __always_inline struct nl_thread *find_thread(u32 tid)
{
	struct nl_thread *thread = cached_thread(tid);

	if (thread && thread->tid == tid)
		return thread;
	return bpf_map_lookup_elem(&threads, &tid);
}

/* Drop the state of an exited thread before its tid is reused. */
static __always_inline void drop_thread(u32 tid)
{
	struct nl_thread *thread = cached_thread(tid);

	if (thread && thread->tid == tid) {
		thread->tid = 0;
		exchange(&thread->taken, 0);
	} else {
		bpf_map_delete_elem(&threads, &tid);
	}
}

/* Enter a thread and report it. 0 when the table is full. */
static __noinline struct nl_thread *new_thread(u32 tid, u32 slot)
{
	struct nl_thread *thread = cached_thread(tid), new = {};
	struct nl_event *event;

	new.uid = new_uid();
	if (!new.uid)
		return 0;
	new.slot = slot;
	new.tid = tid;
	new.taken = 1;
	if (thread && exchange(&thread->taken, 1) == 0) {
		*thread = new;
	} else if (bpf_map_update_elem(&threads, &tid, &new, BPF_NOEXIST)) {
		count(NL_THREADS_FULL);
		return 0;
	}
	event = new_event(NL_EVENT_THREAD, slot, new.uid);
	if (event) {
		bpf_get_current_comm(event->comm, sizeof(event->comm));
		bpf_ringbuf_submit(event, 0);
	}
	return find_thread(tid);
}

/* The running thread, whose ids are known; 0 when the table is full. */
static __always_inline struct nl_thread *thread_of(u64 ids, u32 slot)
{
	u32 tid = (u32)ids;
	struct nl_thread *thread = find_thread(tid);

	return thread ? thread : new_thread(tid, slot);
}

#endif /* NATIVELEAK_THREADS_BPF_H */
