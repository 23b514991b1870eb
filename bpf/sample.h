/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sampling by bytes in whole numbers: BPF has no floating point. Nothing in here is of the kernel, so that
 * tests/integration/test_sampling_numbers.py compiles it for the host and measures what it gives.
 *
 * Sample points lie on the line of all bytes asked for, `rate` bytes apart in the mean, at exponential distances. A
 * block is kept when one of them falls inside of it: with probability p = 1 - exp(-size / rate), whatever came before.
 * So 1 / p blocks and size / p bytes, booked for each one kept, are unbiased.
 */
#ifndef NATIVELEAK_SAMPLE_H
#define NATIVELEAK_SAMPLE_H

#include <linux/types.h>

/*
 * How the two functions with loops in them are defined: as part of a program the verifier would go through them for
 * each state that the program can be in.
 */
#ifndef NL_SAMPLE_FUNCTION
#define NL_SAMPLE_FUNCTION static inline
#endif

/* Bounds that the arithmetic below needs; the command line keeps them. */
#define NL_MAX_RATE (1ULL << 28)
/* From this many rates on a block is kept for certain: 1 - p would be 1e-7. */
#define NL_CERTAIN_RATES 16
/* ln 2 and 1 with 32 bits behind the point. */
#define NL_LN2 2977044472ULL
#define NL_ONE (1ULL << 32)

/* What a block that was kept stands for. */
struct nl_weight {
	__u64 bytes;
	__u32 count;
	__u32 kept; /* probability of being kept, 32 bits behind the point; 0: certain */
};

/* Bytes to the next sample point, -rate * ln(u): `random` makes u = (2 * random + 1) / 2^33, never 0 or 1. */
NL_SAMPLE_FUNCTION __u64 nl_draw(__u32 random, __u64 rate)
{
	__u64 m = 2 * (__u64)random + 1, whole = 1, fraction = 0, x;

	/* u = m / 2^32 * 2^-whole with m in [2^32, 2^33). */
	for (int shift = 16; shift; shift >>= 1) {
		if (m < 1ULL << (33 - shift)) {
			m <<= shift;
			whole += shift;
		}
	}
	if (m < NL_ONE) {
		m <<= 1;
		whole++;
	}
	/* log2 of the mantissa, a bit a squaring. */
	m >>= 1;
	for (int i = 0; i < 32; i++) {
		/* No branch: the kernel's verifier would follow both ways, 32 times over. */
		m = m * m >> 31;
		fraction = fraction << 1 | m >> 32;
		m >>= m >> 32;
	}
	/* whole <= 34: six bits less on each side keep the product in 64. */
	x = ((whole << 32) - fraction) >> 6;
	x = x * NL_LN2 >> 26;
	return (x >> 32) * rate + ((x & (NL_ONE - 1)) * rate >> 32);
}

/* exp(-size / rate), 32 bits behind the point, for size < 16 * rate: a series for a 64th of it, squared six times. */
static inline __u64 nl_missed(__u64 size, __u64 rate)
{
	__u64 y = ((size << 32) / rate) >> 6, term = y, e = NL_ONE - y;

	for (__u64 i = 2; i <= 6; i++) {
		term = (term * y >> 32) / i;
		e = i & 1 ? e - term : e + term;
	}
	if (e >= NL_ONE)
		e = NL_ONE - 1;
	for (int i = 0; i < 6; i++)
		e = e * e >> 32;
	return e;
}

/* Bytes that a kept block of 0 < size < 16 * rate stands for, size / p, exact to 6e-6. */
NL_SAMPLE_FUNCTION __u64 nl_bytes_for(__u64 size, __u64 rate)
{
	if (4 * size < rate)
		/* size / p = rate * x / (1 - exp(-x)) = rate * (1 + x / 2 + x^2 / 12 - x^4 / 720 ...) */
		return rate + (size + size * size / (6 * rate) + 1) / 2;
	return (size << 32) / (NL_ONE - nl_missed(size, rate));
}

/*
 * What a kept block of 0 <= size < 16 * rate stands for. The count is 1 / p rounded up or down by chance, so that it
 * is a whole number and still unbiased. A block of no bytes is sampled as one of one.
 */
static inline void nl_weigh(__u64 size, __u64 rate, __u32 random, struct nl_weight *weight)
{
	__u64 s = size ? size : 1, bytes = nl_bytes_for(s, rate);

	weight->bytes = size ? bytes : 0;
	weight->count = bytes / s + (random % s < bytes % s);
	weight->kept = (s << 32) / bytes > NL_ONE - 1 ? NL_ONE - 1 : (s << 32) / bytes;
}

#endif /* NATIVELEAK_SAMPLE_H */
