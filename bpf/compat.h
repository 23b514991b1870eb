/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Lets BCC compile the sources as they are. BCC's compiler knows neither libbpf's maps nor its relocations, puts each
 * program into a section of its own, and cannot call our functions. So everything is inlined (bcc.bpf.c), a map is a
 * number that the loader replaces by a descriptor (loaders/bcc.py), and the offsets of kernel fields are given as
 * flags.
 *
 * Flags: NL_MAP_* (the numbers); NL_AT_* (offsets in bytes, from the kernel's BTF), or NL_BLIND where there is no
 * BTF. Then a task is taken for the running one, and how a process ended is not known.
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
 * BCC's compiler refuses atomic operations that return the old value, and its assembler does not know them. So the
 * instruction is written as bytes, with the registers that the compiler has chosen. Operations: BPF_ADD | BPF_FETCH
 * and BPF_XCHG in include/uapi/linux/bpf.h.
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
 * This instruction needs r0, which cannot be named here because BCC's first pass compiles for the host. So the loader
 * makes no caches of blocks and sites, and this never runs.
 */
#define atomic_compare_exchange(at, old, value) ((void)(at), (void)(old), (u64)(value))

/* Constants of common.bpf.h, given by the loader as flags. */
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

/*
 * A map is a number in a load instruction, which the loader replaces by the map's descriptor. The number is the size
 * of a variable that does not exist: sizeof() asks for its type only.
 */
#define NL_MAP(name, ...)                   \
	extern struct {                     \
		char number[NL_MAP_##name]; \
	} name
#define NL_RINGBUF(name, bytes) NL_MAP(name)
#define NL_MAP_FD(map) ((void *)bpf_pseudo_fd(1, sizeof(*(map))))

/* BCC's own declarations take no pointer to constant. */
#define bpf_map_lookup_elem(map, key) bpf_map_lookup_elem(NL_MAP_FD(map), (void *)(key))
#define bpf_map_update_elem(map, key, value, flags) \
	bpf_map_update_elem(NL_MAP_FD(map), (void *)(key), (void *)(value), flags)
#define bpf_map_delete_elem(map, key) bpf_map_delete_elem(NL_MAP_FD(map), (void *)(key))
#define bpf_ringbuf_reserve(map, size, flags) bpf_ringbuf_reserve(NL_MAP_FD(map), size, flags)

#ifndef NL_BLIND
/* The fields of kernel structures that are read, each at its offset in this kernel. */
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
