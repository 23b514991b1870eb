/* SPDX-License-Identifier: GPL-2.0 */
/* What every part of the kernel side needs: registers by architecture, maps, counters, events. */
#ifndef NATIVELEAK_COMMON_BPF_H
#define NATIVELEAK_COMMON_BPF_H

#ifndef NATIVELEAK_BCC
#include <linux/bpf.h>
#include <linux/errno.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

/* A function that the verifier checks once and on its own. */
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

/*
 * Layout of the registers a uprobe gets and of a task's saved user registers. Source: struct pt_regs in
 * arch/x86/include/asm/ptrace.h, struct user_pt_regs in arch/arm64/include/uapi/asm/ptrace.h. Own
 * definitions, because the headers of one build host lack those of the other architecture.
 */
#if defined(__TARGET_ARCH_x86)
#ifndef NL_HEADERS
struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};
#endif
#define REG_ARG1(regs) ((regs)->di)
#define REG_ARG2(regs) ((regs)->si)
#define REG_ARG3(regs) ((regs)->dx)
#define REG_RESULT(regs) ((regs)->ax)
#define REG_IP(regs) ((regs)->ip)
#define REG_SP(regs) ((regs)->sp)
#define REG_FP(regs) ((regs)->bp)

/*
 * A register by the number that x86-64's instructions have for it (rax 0, rcx 1, ...): words from the start of
 * pt_regs. Nothing is ever passed in rsp (4). Read as memory, because the
 * verifier takes no loads from a computed place in the context.
 */
static __always_inline u64 register_of(struct pt_regs *regs, u32 number)
{
	/* A nibble a register, rax in the lowest. */
	u64 word = 0x01236789ed405cbaULL >> (4 * number) & 0xf, value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)regs + 8 * word);
	return value;
}

/* rdi, rsi, rdx: where arguments are unless the code has moved them. */
#define REGISTERS_IN_PLACE 0x267
/* The call pushed the return address, the return popped it. */
#define RETURN_SP(entry_sp) ((entry_sp) + 8)
#elif defined(__TARGET_ARCH_arm64)
#ifndef NL_HEADERS
struct pt_regs {
	unsigned long regs[31], sp, pc, pstate;
};
#endif
#define REG_ARG1(r) ((r)->regs[0])
#define REG_ARG2(r) ((r)->regs[1])
#define REG_ARG3(r) ((r)->regs[2])
#define REG_RESULT(r) ((r)->regs[0])
#define REG_IP(r) ((r)->pc)
#define REG_SP(r) ((r)->sp)
#define REG_FP(r) ((r)->regs[29])
#define REG_LR(r) ((r)->regs[30])
#define RETURN_SP(entry_sp) (entry_sp)
#else
#error "no register layout for this architecture"
#endif

#ifndef NATIVELEAK_BCC
/* The PID namespace that the tracer lives in, as stat(2) has it; inode 0: the machine's own. Set by the loader. */
const volatile u64 pid_ns_device;
const volatile u64 pid_ns_inode;
/* Nanoseconds from one tick of the kernel's clock to the next; 0 where that is not known. Set by the loader. */
const volatile u64 tick_ns;
/* enum nl_lack, and how many processors the machine may have. Set by the loader. */
const volatile u64 kernel_lacks;
const volatile u64 n_cpus;

/*
 * Sizes given here are the defaults; the loader sets those of live, sites, threads, stacks, known_stacks,
 * scratch and events before it loads the object. All hash maps allocate as they are used.
 */

/* slot -> target. Written by user space, as a whole. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NL_MAX_TARGETS);
	__type(key, u32);
	__type(value, struct nl_target);
} targets SEC(".maps");

/* slot -> enum nl_state. Apart from the target, because it is switched off here at exec. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NL_MAX_TARGETS);
	__type(key, u32);
	__type(value, u32);
} windows SEC(".maps");

/* tgid -> slot, for probes that every process hits. Written by user space, deleted here at exec. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, NL_MAX_TARGETS);
	__type(key, u32);
	__type(value, u32);
} slots SEC(".maps");

/*
 * The live set: address | slot << 56 -> block. Most blocks are freed soon, so first a table without a search: a place
 * has the key that took it, its block, and how many keys of the same place are in the map below because it was taken.
 * A loader that bounds the live set leaves one place, which has no key.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 + (1 << NL_NEAR_BITS));
	__type(key, u32);
	__type(value, u64);
} near_keys SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 + (1 << NL_NEAR_BITS));
	__type(key, u32);
	__type(value, struct nl_live);
} near_blocks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 + (1 << NL_NEAR_BITS));
	__type(key, u32);
	__type(value, u32);
} near_others SEC(".maps");

/* The rest of the live set. Full: the block is counted as lost. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 20);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u64);
	__type(value, struct nl_live);
} live SEC(".maps");

/*
 * Sites: first a table without a search, as of blocks. A place that is free has no stack in its key; who takes one sets
 * its state first, and user space, which frees it, sets that to free last.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 + (1 << NL_NEAR_SITE_BITS));
	__type(key, u32);
	__type(value, u64);
} near_site_states SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 + (1 << NL_NEAR_SITE_BITS));
	__type(key, u32);
	__type(value, struct nl_site_key);
} near_site_keys SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 + (1 << NL_NEAR_SITE_BITS));
	__type(key, u32);
	__type(value, struct nl_site);
} near_sites SEC(".maps");

/*
 * Site -> totals. Deleted by user space when the thread is gone and nothing is outstanding. Full: the
 * block is booked on the site {0, 0, slot}, which user space puts in at the start.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct nl_site_key);
	__type(value, struct nl_site);
} sites SEC(".maps");

/* One element that stays zero: the value of a new site, too large for the stack. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct nl_site);
} empty_site SEC(".maps");

/* slot * NL_FUNCTIONS + number of the function -> what is known of it. Nothing is deleted. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NL_MAX_TARGETS *NL_FUNCTIONS);
	__type(key, u32);
	__type(value, struct nl_function);
} functions SEC(".maps");

/* 1 + low bits of the tid -> thread, found without a search. A loader that bounds the threads leaves one place. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 + NL_NEAR_THREADS);
	__type(key, u32);
	__type(value, struct nl_thread);
} near_threads SEC(".maps");

/* tid -> thread. Deleted when the thread ends. Full: its calls are counted as lost. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 15);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, u32);
	__type(value, struct nl_thread);
} threads SEC(".maps");

/* [0]: the uid given last. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} uids SEC(".maps");

/* [0]: the cookie of the probe that runs, where the kernel keeps none. Written by programs of cookies.py. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} cookies SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, NL_N_COUNTERS);
	__type(key, u32);
	__type(value, u64);
} counters SEC(".maps");

/* Events in order. Full: counted; user space then looks at the address space anew. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} events SEC(".maps");
#endif

/*
 * Operations that give back what was there. A kernel without them never preempts a program, so that what only programs
 * of one processor touch needs none; all else is left to the hash maps there (NL_LACKS_ATOMICS). The instructions
 * themselves the loader takes out: such a kernel refuses them even where they are never reached.
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

/* Only for what is in the near places, of which there are none without atomics. */
static __always_inline u64 compare_exchange(u64 *at, u64 old, u64 value)
{
	if (!(kernel_lacks & NL_LACKS_ATOMICS))
		return atomic_compare_exchange(at, old, value);
	return value;
}

/*
 * tgid << 32 | tid of the running task, as the tracer's PID namespace has it. 0 for tasks that are in another one, where
 * the tracer does not live in the machine's own: of those below it the kernel does not tell.
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

/* Atomic although the counter is this CPU's own: a program may be preempted between load and store. */
static __always_inline void count_n(u32 counter, u64 n)
{
	u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		__sync_fetch_and_add(value, n);
}

/* For what happens at every call, and is asked for its rate: one may get lost where a program is preempted. */
static __always_inline void count_roughly(u32 counter)
{
	u64 *value = bpf_map_lookup_elem(&counters, &counter);

	if (value)
		*(volatile u64 *)value += 1;
}

static __always_inline void count(u32 counter)
{
	count_n(counter, 1);
}

/* A number that no thread has had; 0: none is to be had. */
static __always_inline u32 new_uid(void)
{
	u32 zero = 0;
	u64 *last = bpf_map_lookup_elem(&uids, &zero);

	if (!last)
		return 0;
	if (!(kernel_lacks & NL_LACKS_ATOMICS))
		return atomic_fetch_and_add(last, 1) + 1;
	/* Each processor gives its own. */
	zero = NL_NUMBERED;
	last = bpf_map_lookup_elem(&counters, &zero);
	if (!last)
		return 0;
	*(volatile u64 *)last += 1;
	return (*(volatile u64 *)last - 1) * n_cpus + bpf_get_smp_processor_id() + 1;
}

static __always_inline struct nl_target *active_target(u32 slot)
{
	u32 *state = bpf_map_lookup_elem(&windows, &slot);

	if (!state || *state != NL_ON)
		return 0;
	return bpf_map_lookup_elem(&targets, &slot);
}

/* Is it to be found out how much there is to see before the window opens? */
static __always_inline int is_counting(u32 slot)
{
	u32 *state = bpf_map_lookup_elem(&windows, &slot);

	return state && *state == NL_COUNTING;
}

/* The slot of the running process, or NL_MAX_TARGETS when it is none of the targets. */
static __always_inline u32 current_slot(void)
{
	u32 tgid = current_ids() >> 32;
	u32 *slot = bpf_map_lookup_elem(&slots, &tgid);

	return slot ? *slot : NL_MAX_TARGETS;
}

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

static __always_inline struct nl_thread *near_place(u32 tid)
{
	u32 index = 1 + (tid & (NL_NEAR_THREADS - 1));

	return bpf_map_lookup_elem(&near_threads, &index);
}

static __always_inline struct nl_thread *find_thread(u32 tid)
{
	struct nl_thread *thread = near_place(tid);

	if (thread && thread->tid == tid)
		return thread;
	return bpf_map_lookup_elem(&threads, &tid);
}

/* It has ended: what is known of it must not become another's. */
static __always_inline void drop_thread(u32 tid)
{
	struct nl_thread *thread = near_place(tid);

	if (thread && thread->tid == tid) {
		thread->tid = 0;
		exchange(&thread->taken, 0);
	} else {
		bpf_map_delete_elem(&threads, &tid);
	}
}

static __noinline struct nl_thread *new_thread(u32 tid, u32 slot)
{
	struct nl_thread *thread = near_place(tid), new = {};
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

/* The running thread, of which the ids are known; 0 when the table is full. */
static __always_inline struct nl_thread *thread_of(u64 ids, u32 slot)
{
	u32 tid = (u32)ids;
	struct nl_thread *thread = find_thread(tid);

	return thread ? thread : new_thread(tid, slot);
}

/*
 * Is code that runs with this stack pointer a part of the allocator call in flight? That call may be gone without
 * a return, by longjmp; others have then written over its frame.
 */
static __always_inline int is_inside_call(const struct nl_thread *thread, u64 sp)
{
	if (thread->call == NL_CALL_NONE || sp > thread->sp)
		return 0;
#if defined(__TARGET_ARCH_x86)
	u64 word;

	/*
	 * While it is in flight, the kernel's return trampoline stands in the place of its return address: the
	 * start of a page. Source: get_trampoline_vaddr in kernel/events/uprobes.c.
	 */
	if (!bpf_probe_read_user(&word, sizeof(word), (void *)thread->sp))
		return word && !(word & 0xfff);
#endif
	return 1;
}

#endif /* NATIVELEAK_COMMON_BPF_H */
