/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Sampling by bytes, in integers because BPF has no floating point. Nothing here needs the kernel:
 * tests/integration/test_sampling_numbers.py compiles this file for the host and measures its results.
 *
 * Sample points lie on the line of all requested bytes, at exponential distances with mean `rate`. A block is sampled
 * when one of them falls into it: with probability p = 1 - exp(-size / rate), independent of all others. So booking 1
 * / p blocks and size / p bytes for each sampled block is unbiased.
 */
#ifndef NATIVELEAK_SAMPLE_H
#define NATIVELEAK_SAMPLE_H

#include <linux/types.h>

/*
 * How the two functions with loops are defined. Inlined into a BPF program, the verifier would check them again for
 * each state of the program.
 */
#ifndef NL_SAMPLE_FUNCTION
#define NL_SAMPLE_FUNCTION static inline
#endif

/* Bound that the arithmetic below needs; the command line enforces it. */
#define NL_MAX_RATE (1ULL << 28)
/* Blocks of this many rates or more are always sampled: 1 - p would be 1e-7. */
#define NL_CERTAIN_RATES 16
/* ln 2 and 1, with 32 fractional bits. */
#define NL_LN2 2977044472ULL
#define NL_ONE (1ULL << 32)

/* What a sampled block stands for. */
struct nl_weight {
	__u64 bytes;
	__u32 count;
	__u32 kept; /* probability of being sampled, 32 fractional bits; 0: certain */
};

/*
 * Bytes to the next sample point, -rate * ln(u). `random` gives u = (2 * random + 1) / 2^33, which is never 0 or 1.
 */
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
	/* log2 of the mantissa: each squaring gives a bit. */
	m >>= 1;
	for (int i = 0; i < 32; i++) {
		/* Without a branch: the verifier would follow both ways, 32 times over. */
		m = m * m >> 31;
		fraction = fraction << 1 | m >> 32;
		m >>= m >> 32;
	}
	/* whole <= 34: dropping six bits on each side keeps the product in 64 bits. */
	x = ((whole << 32) - fraction) >> 6;
	x = x * NL_LN2 >> 26;
	return (x >> 32) * rate + ((x & (NL_ONE - 1)) * rate >> 32);
}

/*
 * exp(-size / rate), 32 fractional bits, for size < 16 * rate: a series for 1/64 of the exponent, squared six times.
 */
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

/* Bytes that a sampled block of 0 < size < 16 * rate stands for, size / p, exact to 6e-6. */
NL_SAMPLE_FUNCTION __u64 nl_bytes_for(__u64 size, __u64 rate)
{
	if (4 * size < rate)
		/* size / p = rate * x / (1 - exp(-x)) = rate * (1 + x / 2 + x^2 / 12 - x^4 / 720 ...) */
		return rate + (size + size * size / (6 * rate) + 1) / 2;
	return (size << 32) / (NL_ONE - nl_missed(size, rate));
}

/*
 * What a sampled block of 0 <= size < 16 * rate stands for. The count is 1 / p, rounded up or down at random, so that
 * it is an integer and still unbiased. A block of 0 bytes is sampled as one of 1 byte.
 */
static inline void nl_weigh(__u64 size, __u64 rate, __u32 random, struct nl_weight *weight)
{
	__u64 s = size ? size : 1, bytes = nl_bytes_for(s, rate);

	weight->bytes = size ? bytes : 0;
	weight->count = bytes / s + (random % s < bytes % s);
	weight->kept = (s << 32) / bytes > NL_ONE - 1 ? NL_ONE - 1 : (s << 32) / bytes;
}

#endif /* NATIVELEAK_SAMPLE_H */
