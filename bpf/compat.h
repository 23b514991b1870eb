/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What lets BCC compile alloc.bpf.c and mapping.bpf.c as they are: its compiler knows neither libbpf's maps nor
 * relocations, has a section a program, and calls no function of ours. So everything is inlined (bcc.bpf.c), a map
 * is a number that the loader replaces by its descriptor (loaders/bcc.py), and the offsets of the kernel's fields are
 * given when it is compiled.
 *
 * Given by the loader: NL_MAP_* (the numbers), NL_AT_* (offsets in bytes, from the kernel's own type information), or
 * NL_BLIND where there is none: then a task is the running one, and how a process ended is not known.
 */
#ifndef NATIVELEAK_COMPAT_H
#define NATIVELEAK_COMPAT_H

#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#undef SEC
#define SEC(name) static __always_inline
#undef __noinline
#define __noinline __always_inline
#define NL_GLOBAL static __always_inline

#ifndef EEXIST
#define EEXIST 17
#endif

/*
 * The compiler refuses atomic operations that give back what was there, and its assembler cannot read them: an
 * instruction by its bytes, with the registers that were chosen. Operations: BPF_ADD | BPF_FETCH, BPF_XCHG, from
 * include/uapi/linux/bpf.h.
 */
#define NL_ATOMIC(operation, at, value)                                                            \
	asm volatile(".set nl_r0, 0\n.set nl_r1, 1\n.set nl_r2, 2\n.set nl_r3, 3\n.set nl_r4, 4\n" \
		     ".set nl_r5, 5\n.set nl_r6, 6\n.set nl_r7, 7\n.set nl_r8, 8\n.set nl_r9, 9\n" \
		     ".byte 0xdb, nl_%0 << 4 | nl_%1, 0, 0, " operation ", 0, 0, 0"                \
		     : "+r"(value)                                                                 \
		     : "r"(at)                                                                     \
		     : "memory")

static __always_inline unsigned long long atomic_fetch_and_add(unsigned long long *at,
							       unsigned long long n)
{
	NL_ATOMIC("0x01", at, n);
	return n;
}

static __always_inline unsigned long long atomic_exchange(unsigned long long *at,
							  unsigned long long value)
{
	NL_ATOMIC("0xe1", at, value);
	return value;
}

/*
 * The instruction needs r0, which cannot be named here: the first of this compiler's passes is for another machine. So the
 * loader makes no near places, and this is never run.
 */
#define atomic_compare_exchange(at, old, value) ((void)(at), (void)(old), (u64)(value))

/* Its own declaration takes no pointer to constant. */
#define bpf_map_lookup_elem(map, key) bpf_map_lookup_elem(map, (void *)(key))
#define bpf_map_update_elem(map, key, value, flags) \
	bpf_map_update_elem(map, (void *)(key), (void *)(value), flags)
#define bpf_map_delete_elem(map, key) bpf_map_delete_elem(map, (void *)(key))

/* In an inner PID namespace the loader says which. */
#ifndef NL_PID_NS_INODE
#define NL_PID_NS_INODE 0
#define NL_PID_NS_DEVICE 0
#endif
#ifndef NL_TICK_NS
#define NL_TICK_NS 0
#endif
#define pid_ns_inode NL_PID_NS_INODE
#define pid_ns_device NL_PID_NS_DEVICE
#define tick_ns NL_TICK_NS
#ifndef NL_KERNEL_LACKS
#define NL_KERNEL_LACKS 0
#define NL_N_CPUS 0
#endif
#define kernel_lacks NL_KERNEL_LACKS
#define n_cpus NL_N_CPUS

/* A name of a map is its descriptor, as an instruction loads it. */
struct nl_map {
	int unused;
};

#define NL_MAP(number) (*(struct nl_map *)bpf_pseudo_fd(1, number))
#define targets NL_MAP(NL_MAP_targets)
#define windows NL_MAP(NL_MAP_windows)
#define slots NL_MAP(NL_MAP_slots)
#define near_keys NL_MAP(NL_MAP_near_keys)
#define near_blocks NL_MAP(NL_MAP_near_blocks)
#define near_others NL_MAP(NL_MAP_near_others)
#define live NL_MAP(NL_MAP_live)
#define near_site_states NL_MAP(NL_MAP_near_site_states)
#define near_site_keys NL_MAP(NL_MAP_near_site_keys)
#define near_sites NL_MAP(NL_MAP_near_sites)
#define sites NL_MAP(NL_MAP_sites)
#define empty_site NL_MAP(NL_MAP_empty_site)
#define functions NL_MAP(NL_MAP_functions)
#define near_threads NL_MAP(NL_MAP_near_threads)
#define threads NL_MAP(NL_MAP_threads)
#define uids NL_MAP(NL_MAP_uids)
#define cookies NL_MAP(NL_MAP_cookies)
#define counters NL_MAP(NL_MAP_counters)
#define events NL_MAP(NL_MAP_events)
#define stacks NL_MAP(NL_MAP_stacks)
#define stack_frames NL_MAP(NL_MAP_stack_frames)
#define known_stacks NL_MAP(NL_MAP_known_stacks)
/* There is a structure of the same name. */
#define SCRATCH NL_MAP(NL_MAP_scratch)

#ifndef NL_BLIND
/* The kernel's structures, as far as they are read: each field at the offset that this kernel has. */
#define NL_FIELD(type, field, at)     \
	struct {                      \
		char before_##at[at]; \
		type field;           \
	} __attribute__((packed))

struct signal_struct {
	union {
		NL_FIELD(int, group_exit_code, NL_AT_signal_struct_group_exit_code);
	};
};

struct mm_struct {
	union {
		NL_FIELD(unsigned long, brk, NL_AT_mm_struct_brk);
	};
};

struct task_struct {
	union {
		NL_FIELD(int, pid, NL_AT_task_struct_pid);
		NL_FIELD(int, tgid, NL_AT_task_struct_tgid);
		NL_FIELD(struct mm_struct *, mm, NL_AT_task_struct_mm);
		NL_FIELD(int, exit_code, NL_AT_task_struct_exit_code);
		NL_FIELD(struct signal_struct *, signal, NL_AT_task_struct_signal);
		NL_FIELD(void *, stack, NL_AT_task_struct_stack);
	};
};
#endif

#endif /* NATIVELEAK_COMPAT_H */
