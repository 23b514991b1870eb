/* SPDX-License-Identifier: GPL-2.0 */
/* Sampling: which blocks are recorded, and what a recorded block stands for. The arithmetic is in sample.h. */
#ifndef NATIVELEAK_SAMPLING_BPF_H
#define NATIVELEAK_SAMPLING_BPF_H

#include "common.bpf.h"
#include "nativeleak.h"
#include "sample.h"

/* Cold path of is_sampled: the next sample point has to be drawn, or lies in this block. */
static __noinline int draw_sample(struct nl_thread *thread, u64 rate, u64 size)
{
	u64 counted = size ? size : 1;

	/* Bounds that the verifier cannot infer. */
	if (!rate || rate > NL_MAX_RATE || size >= NL_CERTAIN_RATES * rate)
		return 0;
	/* The distribution has no memory, so after a change of rate the distance may be drawn anew. */
	if (thread->sample_rate != rate) {
		thread->sample_rate = rate;
		thread->until_sample = nl_draw(bpf_get_prandom_u32(), rate);
	}
	if (thread->until_sample >= counted) {
		thread->until_sample -= counted;
		return 0;
	}
	thread->until_sample = nl_draw(bpf_get_prandom_u32(), rate);
	nl_weigh(size, rate, bpf_get_prandom_u32(), &thread->weight);
	return 1;
}

/* Does a sample point fall into this block? Sets what the block then stands for. */
static __always_inline int is_sampled(struct nl_thread *thread, struct nl_target *target, u64 size)
{
	u64 rate = target->sample_rate, counted = size ? size : 1;

	if (size >= target->sample_above || !rate || rate > NL_MAX_RATE ||
	    size >= NL_CERTAIN_RATES * rate) {
		thread->weight.bytes = size;
		thread->weight.count = 1;
		thread->weight.kept = 0;
		return 1;
	}
	if (thread->sample_rate != rate || thread->until_sample < counted)
		return draw_sample(thread, rate, size);
	thread->until_sample -= counted;
	return 0;
}

#endif /* NATIVELEAK_SAMPLING_BPF_H */
