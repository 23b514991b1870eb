/* SPDX-License-Identifier: GPL-2.0 */
/* The base of every BPF file: helpers, integer types, constants set by the loader, maps, atomic operations. */
#ifndef NATIVELEAK_COMMON_BPF_H
#define NATIVELEAK_COMMON_BPF_H

#ifndef NATIVELEAK_BCC
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

/* A function that the verifier checks once, apart from its callers. */
#define NL_GLOBAL __noinline
#define NL_SAMPLE_FUNCTION NL_GLOBAL
#define atomic_exchange(at, value) __sync_lock_test_and_set(at, value)
#define atomic_fetch_and_add(at, n) __sync_fetch_and_add(at, n)
#define atomic_compare_exchange(at, old, value) __sync_val_compare_and_swap(at, old, value)
#endif

#include "nativeleak.h"
#ifdef NATIVELEAK_BCC
#include "compat.h"
#endif

typedef __u64 u64;
typedef __s64 s64;
typedef __u32 u32;
typedef __s32 s32;
typedef __u8 u8;

#ifndef NATIVELEAK_BCC
/*
 * PID namespace of the tracer: device and inode as stat(2) gives them. Inode 0: the initial namespace. Set by the
 * loader.
 */
const volatile u64 pid_ns_device;
const volatile u64 pid_ns_inode;
/* Nanoseconds per jiffy; 0: unknown. Set by the loader. */
const volatile u64 tick_ns;
/* enum nl_lack, and the number of possible CPUs. Set by the loader. */
const volatile u64 kernel_lacks;
const volatile u64 n_cpus;

/*
 * Declares a map. Each map stands beside the code that owns it, and its comment says key, value, who deletes and what
 * happens when it is full. `n` is the default: the loader sets the size of live, sites, threads, stacks, known_stacks,
 * stack_frames, scratch, mappings, events and the caches before it loads the object. BCC's form is in compat.h.
 *
 * Each NL_MAP and NL_RINGBUF begins a line with its name on it: loaders/bcc.py reads the names from there.
 */
#define NL_MAP(name, kind, key_type, value_type, n, flags) \
	struct {                                           \
		__uint(type, BPF_MAP_TYPE_##kind);         \
		__uint(max_entries, n);                    \
		__uint(map_flags, flags);                  \
		__type(key, key_type);                     \
		__type(value, value_type);                 \
	} name SEC(".maps")

#define NL_RINGBUF(name, bytes)                     \
	struct {                                    \
		__uint(type, BPF_MAP_TYPE_RINGBUF); \
		__uint(max_entries, bytes);         \
	} name SEC(".maps")
#endif

/*
 * Atomic operations that return the old value. A kernel without them (NL_LACKS_ATOMICS) never preempts a BPF program,
 * so data of one CPU needs none; everything else is kept in hash maps there. The loader removes these instructions
 * from the object for such a kernel, because its verifier refuses them even in dead code.
 */
static __always_inline u64 exchange(u64 *at, u64 value)
{
	u64 before;

	if (!(kernel_lacks & NL_LACKS_ATOMICS))
		return atomic_exchange(at, value);
	before = *(volatile u64 *)at;
	*(volatile u64 *)at = value;
	return before;
}

/* Only for the direct-mapped caches, which have no entries on a kernel without atomic operations. */
static __always_inline u64 compare_exchange(u64 *at, u64 old, u64 value)
{
	if (!(kernel_lacks & NL_LACKS_ATOMICS))
		return atomic_compare_exchange(at, old, value);
	return value;
}

/*
 * tgid << 32 | tid of the running task, in the tracer's PID namespace. 0 for a task of another namespace, unless the
 * tracer is in the initial one: the helper cannot translate ids of nested namespaces.
 */
static __always_inline u64 current_ids(void)
{
	struct bpf_pidns_info ids = {};

	if (!pid_ns_inode)
		return bpf_get_current_pid_tgid();
	if (bpf_get_ns_current_pid_tgid(pid_ns_device, pid_ns_inode, &ids, sizeof(ids)))
		return 0;
	return (u64)ids.tgid << 32 | ids.pid;
}

#endif /* NATIVELEAK_COMMON_BPF_H */
