/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Runtimes whose code has frames of its own: which code is theirs, and how to step over it. Another runtime is a
 * header like hotspot.bpf.h, its state in struct scratch, and a case in each switch below.
 */
#ifndef NATIVELEAK_RUNTIME_BPF_H
#define NATIVELEAK_RUNTIME_BPF_H

#include "arch.bpf.h"
#include "common.bpf.h"
#include "hotspot.bpf.h"
#include "scratch.bpf.h"

enum runtime_kind { RUNTIME_HOTSPOT };

/* Begin a walk. Sets where the code of the target's runtime lies. */
static __always_inline void begin_runtime(struct scratch *scr)
{
	begin_hotspot(scr);
}

/* Is this an address of the runtime's code? */
static __always_inline int is_managed(const struct scratch *scr, u64 pc)
{
	return pc - scr->managed_low < scr->managed_bytes;
}

#if HAS_UNWIND_TABLES

/*
 * Kind of the runtime that is walked. A constant while there is one kind, so that the switches below compile to
 * nothing; of several, user space has to say which in struct nl_target.
 */
static __always_inline enum runtime_kind runtime_kind(void)
{
	return RUNTIME_HOTSPOT;
}

/*
 * Fast path of step_runtime, for ordinary frames whose code is cached. Returns 0 when the walk goes on, 1 when nothing
 * was done and step_runtime must be called.
 */
static __always_inline int step_known_runtime(struct scratch *scr)
{
	switch (runtime_kind()) {
	case RUNTIME_HOTSPOT:
		return step_known_code(scr);
	}
	return 1;
}

/* Go one frame up; pc is managed. Returns 1 when the walk has ended. */
static __always_inline int step_runtime(u32 index)
{
	switch (runtime_kind()) {
	case RUNTIME_HOTSPOT:
		return step_java(index);
	}
	return 1;
}

/*
 * A walk has ended before the root: continue at the last frame that the runtime has noted, if there is one above.
 * Returns 0 if the walk goes on.
 */
static __always_inline int resume_runtime(u32 index, u32 end)
{
	switch (runtime_kind()) {
	case RUNTIME_HOTSPOT:
		return resume_at_anchor(index, end);
	}
	return 1;
}

#endif /* HAS_UNWIND_TABLES */

#endif /* NATIVELEAK_RUNTIME_BPF_H */
