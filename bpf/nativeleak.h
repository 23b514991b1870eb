/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the kernel side and tracer/nativeleak/engines/bpf/abi.py share. Every struct's size is
 * asserted here and there; a field moves in both files or in neither.
 */
#ifndef NATIVELEAK_H
#define NATIVELEAK_H

#define NL_MAX_TARGETS 64
#define NL_SLICES 16
#define NL_BANKS 2
/* Depth of a stored stack; the report says so where a stack was deeper. */
#define NL_MAX_FRAMES 127
/* A task may be preempted in the middle of a walk, so one scratch a CPU is not enough. */
#define NL_SCRATCH_PER_CPU 8
/* Birth times count in units of 2^20 ns (1.05 ms): 32 bits last 52 days. */
#define NL_BORN_SHIFT 20
/* Width of a birth slice of generation 0 is 2^10 such units (1.07 s); each generation doubles it. */
#define NL_SLICE_SHIFT 10
/* The slot of the target stands above the 56 bits that a user address can have (5-level paging). */
#define NL_SLOT_SHIFT 56

/* What the arguments and the result of an allocator function mean. Part of the cookie of a probe. */
enum nl_call {
	NL_CALL_NONE,
	NL_CALL_MALLOC, /* (size) -> block */
	NL_CALL_CALLOC, /* (count, size) -> block */
	NL_CALL_REALLOC, /* (block, size) -> block */
	NL_CALL_REALLOCARRAY, /* (block, count, size) -> block */
	NL_CALL_POSIX_MEMALIGN, /* (&block, alignment, size) -> 0 or an error */
	NL_CALL_ALIGNED_ALLOC, /* (alignment, size) -> block */
	NL_CALL_FREE, /* (block) */
	NL_CALL_DELETE, /* (block): a C++ operator, which may or may not go on to free */
};

/* Cookie of a probe: enum nl_call in bits 0-7, slot of the target in bits 8-15. */
#define NL_COOKIE_CALL(cookie) ((cookie)&0xff)
#define NL_COOKIE_SLOT(cookie) (((cookie) >> 8) & 0xff)

enum nl_counter {
	NL_LOST_ALLOCATIONS, /* no room in the live set or for the thread */
	NL_LOST_BYTES,
	NL_LOST_STACKS, /* no room in the stack store */
	NL_STACK_COLLISIONS, /* two stacks with one key */
	NL_NO_SCRATCH, /* no scratch buffer free: the stack is the leaf and its caller */
	NL_LOST_EVENTS, /* ring buffer full */
	NL_SITES_FULL, /* allocations booked on the site for all others */
	NL_THREADS_FULL, /* calls of threads that had no room in the thread table */
	NL_UNMATCHED_FREES, /* frees of blocks that are not in the live set */
	NL_FREE_NULL,
	NL_NESTED, /* allocator calls inside an allocator call */
	NL_SKIPPED, /* outside of the size limits */
	NL_FAILED, /* the allocator returned an error */
	NL_ABANDONED, /* entered, never returned: longjmp, a thread that ended inside */
	NL_OVERWRITTEN, /* a block handed out whose free was not seen */
	NL_BAD_POINTER, /* posix_memalign's result could not be read */
	NL_SYSCALLS, /* system calls seen, entry and exit counted once */
	NL_N_COUNTERS,
};

enum nl_event_type {
	NL_EVENT_NONE,
	NL_EVENT_STACK, /* a new stack lies in the stack store */
	NL_EVENT_MMAP, /* exit, success: args addr len prot flags fd offset */
	NL_EVENT_MUNMAP, /* entry: args addr len */
	NL_EVENT_MUNMAP_FAILED, /* exit */
	NL_EVENT_MREMAP, /* entry: args addr old_len new_len flags new_addr */
	NL_EVENT_MREMAP_DONE, /* exit, ret is the address or an error */
	NL_EVENT_MPROTECT, /* exit, success: args addr len prot */
	NL_EVENT_BRK, /* exit: args the break asked for, ret the break now */
	NL_EVENT_SHMGET, /* exit, success: args key size, ret the shmid */
	NL_EVENT_SHMAT, /* exit, success: args shmid, ret the address */
	NL_EVENT_SHMDT, /* entry: args addr */
	NL_EVENT_SHMDT_FAILED, /* exit */
	NL_EVENT_THREAD, /* a thread seen for the first time, or renamed: comm */
	NL_EVENT_THREAD_EXIT, /* comm; ret the exit code */
	NL_EVENT_EXEC,
	NL_EVENT_OOM_KILL,
};

/* Flags of an event. */
#define NL_IN_ALLOCATOR 1u

/* Flags of a stack: how the walk ended when it was not at the root. */
#define NL_STACK_TRUNCATED 1u /* deeper than the limit */
#define NL_STACK_NO_FP 2u /* the frame pointer led nowhere */
#define NL_STACK_READ_FAULT 4u /* a page of the stack was not in memory */
#define NL_STACK_NO_SCRATCH 8u

enum nl_state { NL_OFF, NL_ON };

/* A system call wrapper of the C library that makes room on the stack before the call. */
struct nl_wrapper {
	__u64 start;
	__u64 end;
	__u64 frame_bytes; /* from the stack pointer at the call to the return address */
};

#define NL_WRAPPERS 4

/* One target, written by user space. */
struct nl_target {
	__u32 tgid;
	__u32 state; /* enum nl_state */
	__u64 start_ns; /* CLOCK_MONOTONIC when the window opened */
	__u64 min_size; /* requested bytes; smaller calls are skipped */
	__u64 max_size; /* larger calls are skipped; 0: no limit */
	__u64 wrappers_start; /* text of the C library: most of its wrappers have no frame */
	__u64 wrappers_end;
	__u32 generation; /* of the birth slices: their width is 2^(20+10+generation) ns */
	__u32 max_depth;
	struct nl_wrapper wrappers[NL_WRAPPERS]; /* those that do have one; unused: all zero */
};

/* A block that is outstanding. */
struct nl_live {
	__u64 size; /* as requested */
	__u64 stack; /* with thread: the site it is booked on */
	__u32 thread;
	__u32 born; /* since the window opened, 2^20 ns */
};

struct nl_site_key {
	__u64 stack;
	__u32 thread; /* uid, not tid: a tid may be used again */
	__u32 slot;
};

struct nl_slice {
	__s64 bytes;
	__s64 count;
};

/*
 * Totals of a site. Freed before allocated: a reader that copies front to back never sees more freed
 * than allocated. Slices are differences since a moment that only user space knows, so they may be
 * negative: see ledger/slices.py.
 */
struct nl_site {
	__u64 freed_bytes;
	__u64 freed_count;
	__u64 allocated_bytes;
	__u64 allocated_count;
	__u32 check; /* second hash of the stack, to see a collision of the first */
	__u32 pad;
	struct nl_slice slices[NL_BANKS][NL_SLICES];
};

struct nl_stack {
	__u32 n; /* frames, leaf first */
	__u32 flags;
	__u32 check;
	__u32 slot;
	__u64 ips[NL_MAX_FRAMES];
};

/* A thread of a target, from its first call to its end. One call at a time can be in flight. */
struct nl_thread {
	__u32 uid;
	__u32 slot;
	__u32 call; /* enum nl_call in flight, NL_CALL_NONE outside of the allocator */
	__u16 held; /* the record below was taken out of the live set by a realloc */
	__u16 skipped; /* outside of the size limits: not recorded at its return */
	__u64 sp; /* stack pointer at the entry */
	__u64 ip; /* address of the function entered: the leaf frame */
	__u64 size;
	__u64 pointer; /* realloc: the old block; posix_memalign: where the new one is stored */
	__u64 return_address;
	struct nl_live old;
	__u64 deleted; /* block that operator delete took: free may see it again */
	__u64 syscall_args[6];
};

struct nl_event {
	__u32 type; /* enum nl_event_type */
	__u32 slot;
	__u32 tid;
	__u32 thread; /* uid */
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u64 stack;
	__s64 ret;
	__u32 flags;
	__u32 pad;
	union {
		__u64 args[6];
		char comm[16];
	};
};

_Static_assert(sizeof(struct nl_target) == 56 + NL_WRAPPERS * 24, "nl_target");
_Static_assert(sizeof(struct nl_live) == 24, "nl_live");
_Static_assert(sizeof(struct nl_site_key) == 16, "nl_site_key");
_Static_assert(sizeof(struct nl_site) == 40 + NL_BANKS * NL_SLICES * 16, "nl_site");
_Static_assert(sizeof(struct nl_stack) == 16 + NL_MAX_FRAMES * 8, "nl_stack");
_Static_assert(sizeof(struct nl_thread) == 136, "nl_thread");
_Static_assert(sizeof(struct nl_event) == 96, "nl_event");

#endif /* NATIVELEAK_H */
