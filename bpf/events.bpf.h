/* SPDX-License-Identifier: GPL-2.0 */
/* Events: what happened to address spaces, threads and processes, in order. */
#ifndef NATIVELEAK_EVENTS_BPF_H
#define NATIVELEAK_EVENTS_BPF_H

#include "common.bpf.h"
#include "counters.bpf.h"
#include "nativeleak.h"

/* Events in order. Full: the event is counted as lost, and user space reads the address space anew. */
NL_RINGBUF(events, 4 << 20);

static __always_inline struct nl_event *new_event(u32 type, u32 slot, u32 uid)
{
	struct nl_event *event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);

	if (!event) {
		count(NL_LOST_EVENTS);
		return 0;
	}
	event->type = type;
	event->slot = slot;
	event->tid = (u32)current_ids();
	event->thread = uid;
	event->time_ns = bpf_ktime_get_ns();
	event->stack = 0;
	event->ret = 0;
	event->flags = 0;
	event->pad = 0;
	__builtin_memset(event->args, 0, sizeof(event->args));
	return event;
}

/* Wake user space up: many calls were made, and it decides whether they cost too much. */
static __noinline void tell_busy(u32 slot)
{
	struct nl_event *event = new_event(NL_EVENT_BUSY, slot, 0);

	if (event)
		bpf_ringbuf_submit(event, 0);
}

#endif /* NATIVELEAK_EVENTS_BPF_H */
