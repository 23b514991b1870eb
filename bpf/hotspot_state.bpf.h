/* SPDX-License-Identifier: GPL-2.0 */
/* What walks remember of HotSpot, in a scratch buffer. Apart from hotspot.bpf.h, which needs the whole buffer. */
#ifndef NATIVELEAK_HOTSPOT_STATE_BPF_H
#define NATIVELEAK_HOTSPOT_STATE_BPF_H

#include "common.bpf.h"

/* Entries for compiled code that was looked up; a power of two. */
#define NL_HOTSPOT_CODES 256

/* What was found at a return address in compiled code. Other code may be there by now. */
struct hotspot_code {
	u64 pc;
	u64 blob;
	u32 slot;
	u32 compile_id; /* unique to a piece of code */
	u32 frame_words;
	s32 orig_pc; /* offset from sp of the return address before deoptimization; -1: pc is no deopt handler */
	u32 tick; /* jiffy of the last check; see is_of_now */
	u32 pad;
};

/* State of one walk. */
struct hotspot_walk {
	u64 anchor_at; /* where the JVM has noted the last Java frame; 0: nowhere, or used up */
	u32 has_anchor; /* anchor_at is set */
	u32 pad;
};

#endif /* NATIVELEAK_HOTSPOT_STATE_BPF_H */
