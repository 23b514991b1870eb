/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Shared by the BPF programs and tracer/nativeleak/engines/bpf/kernel/abi.py: a field changes in both files or in
 * neither. A unit test compares every offset, size and number of an enum with the compiled object.
 */
#ifndef NATIVELEAK_H
#define NATIVELEAK_H

#include "sample.h"

#define NL_MAX_TARGETS 64
#define NL_SLICES 16
#define NL_BANKS 2
/* Frames of a stack that are kept; a deeper stack keeps both its ends. */
#define NL_MAX_FRAMES 512
/*
 * A walk that has not reached the root after NL_ROUNDS * NL_STEPS frames ends there. There are two nested loops, the
 * inner one in a function of its own, so that the verifier checks 128 + 8 rounds instead of 1,024. The rounds of a
 * step are by far the most expensive.
 */
#ifdef NATIVELEAK_BCC
/* Without function calls the verifier checks all rounds in each program. */
#define NL_ROUNDS 12
#define NL_STEPS 12
#else
#define NL_ROUNDS 128
#define NL_STEPS 8
#endif
/* Frames of one element of the stack store; short stacks take few elements. */
#define NL_CHUNK_FRAMES 64
/* A task may be preempted during a walk, so one scratch buffer per CPU is not enough. */
#define NL_SCRATCH_PER_CPU 8
/* Unit of birth times: 2^20 ns (1.05 ms). 32 bits last 52 days. */
#define NL_BORN_SHIFT 20
/* Width of a birth slice of generation 0: 2^10 units (1.07 s). Each generation doubles it. */
#define NL_SLICE_SHIFT 10
/* Functions of a target whose returns may be declined; number 0 stands for all others. */
#define NL_FUNCTIONS 16
/* The slot of the target is above the 56 bits of a user address (5-level paging). */
#define NL_SLOT_SHIFT 56

/* Calls, or frees, of one CPU from one NL_EVENT_BUSY to the next, a power of two: 41 ms at 100,000 a second. */
#define NL_BUSY_HITS 4096

/* Kinds of allocator functions, by arguments and result. Part of a probe's cookie. */
enum nl_alloc_call {
	NL_ALLOC_CALL_NONE,
	NL_ALLOC_CALL_MALLOC, /* (size) -> block */
	NL_ALLOC_CALL_CALLOC, /* (count, size) -> block */
	NL_ALLOC_CALL_REALLOC, /* (block, size) -> block */
	NL_ALLOC_CALL_REALLOCARRAY, /* (block, count, size) -> block */
	NL_ALLOC_CALL_POSIX_MEMALIGN, /* (&block, alignment, size) -> 0 or an error */
	NL_ALLOC_CALL_ALIGNED_ALLOC, /* (alignment, size) -> block */
	NL_ALLOC_CALL_FREE, /* (block) */
	NL_ALLOC_CALL_DELETE, /* (block): it may call another function that frees */
	NL_ALLOC_CALL_NEW, /* (size) -> block: a C++ operator, which throws where malloc returns 0 */
	NL_ALLOC_CALL_HEAP_CALLOC, /* (heap, count, size) -> block */
	NL_ALLOC_CALL_HEAP_REALLOC, /* (heap, block, size) -> block */
};

/*
 * Cookie of a probe. Bits 0-7: enum nl_alloc_call. 8-15: slot of the target. 16-31: bytes from the function's first
 * instruction to the probe. 32-47: bytes pushed by the instructions before the probe. 48-59: registers of the
 * arguments. 60-63: the function's number among those of the target whose returns may be declined, 0 for the others; of
 * a function that ends at exits 1 for NL_CALL_OPEN.
 */
#define NL_COOKIE_CALL(cookie) ((cookie)&0xff)
#define NL_COOKIE_SLOT(cookie) (((cookie) >> 8) & 0xff)
#define NL_COOKIE_OFFSET(cookie) (((cookie) >> 16) & 0xffff)
#define NL_COOKIE_PUSHED(cookie) (((cookie) >> 32) & 0xffff)
#define NL_COOKIE_FUNCTION(cookie) ((cookie) >> 60)
/* Register of argument 1 to 3 by x86-64 number, in case the code before the probe has moved it. */
#define NL_COOKIE_REGISTER(cookie, argument) (((cookie) >> (44 + 4 * (argument))) & 0xf)

/* In nl_thread.call, with the kind: the end of the call is seen at the exits of its function. */
#define NL_CALL_AT_EXITS 0x100u
/* The same of a C++ operator that makes its blocks itself: calls inside it are the program's, for an exception say. */
#define NL_CALL_OPEN 0x200u
/* With NL_CALL_AT_EXITS: the call is seen where it is made, and its end where it returns to. */
#define NL_CALL_AT_SITE 0x400u
/* Calls inside of a call are at most so much deeper in the stack, where unwind tables do not tell it. */
#define NL_NESTED_BYTES 0x10000

/*
 * Cookie of a probe at an exit. Bits 8-15: slot of the target. 16-31: words from the stack pointer to the return
 * address. 32-36: register that holds the result, by x86-64 number, or one of the two below. 40-43: condition of a
 * branch, as in its opcode, that has to hold. 44: there is one.
 */
#define NL_EXIT_WORDS(cookie) (((cookie) >> 16) & 0xffff)
#define NL_EXIT_REGISTER(cookie) (((cookie) >> 32) & 0x1f)
#define NL_EXIT_CONDITION(cookie) (((cookie) >> 40) & 0xf)
#define NL_EXIT_HAS_CONDITION(cookie) (((cookie) >> 44) & 1)
#define NL_EXIT_ZERO 16 /* the function returns 0 */
#define NL_EXIT_UNSEEN 17 /* another function returns in its place, and what is not known */

/*
 * Cookie of a probe at a call instruction. Bits 0-15 and 48-59 as above. 16-31: bytes of the instruction. 32-47: number of
 * the call site. At the place it returns to: 32-36 as NL_EXIT_REGISTER.
 */
#define NL_SITE_BYTES(cookie) (((cookie) >> 16) & 0xffff)
#define NL_SITE_NUMBER(cookie) (((cookie) >> 32) & 0xffff)
#define NL_MAX_CALL_SITES 4096

enum nl_counter {
	NL_LOST_ALLOCATIONS, /* live set or thread table full */
	NL_LOST_BYTES,
	NL_LOST_STACKS, /* stack store full */
	NL_STACK_COLLISIONS, /* two stacks with one key */
	NL_NO_SCRATCH, /* no scratch buffer free: the block is booked on the site for all others */
	NL_LOST_EVENTS, /* ring buffer full */
	NL_SITES_FULL, /* site table full: allocations booked on the site for all others */
	NL_THREADS_FULL, /* thread table full: calls of a new thread */
	NL_UNMATCHED_FREES, /* frees of blocks that are not in the live set, which holds all blocks */
	NL_FREE_NULL,
	NL_NESTED, /* allocator calls inside an allocator call */
	NL_SKIPPED, /* outside the size limits */
	NL_FAILED, /* the allocator returned an error */
	NL_ABANDONED, /* entered but never returned: longjmp, or the thread ended inside */
	NL_OVERWRITTEN, /* block returned at an address in the live set: its free was not seen */
	NL_BAD_POINTER, /* posix_memalign's result could not be read */
	NL_SYSCALLS, /* system calls seen, entry and exit counted once */
	NL_CALLS, /* times a probe at the entry of an allocating function ran */
	NL_FREES, /* times a probe at the entry of a freeing function ran */
	NL_DECLINED, /* calls whose return was declined */
	NL_UNSAMPLED, /* allocations that were not sampled */
	NL_UNSAMPLED_FREES, /* frees of blocks that are not in the live set, which is sampled or partial */
	NL_NUMBERED, /* uids given by this CPU, on kernels without atomic operations */
	NL_N_COUNTERS,
};

enum nl_event_type {
	NL_EVENT_NONE,
	NL_EVENT_STACK, /* a new stack is in the stack store */
	NL_EVENT_MMAP, /* exit, success: args addr len prot flags fd offset */
	NL_EVENT_MUNMAP, /* entry, with the stack: args addr len */
	NL_EVENT_MUNMAP_FAILED, /* exit */
	NL_EVENT_MREMAP, /* entry: args addr old_len new_len flags new_addr */
	NL_EVENT_MREMAP_DONE, /* exit, ret is the address or an error */
	NL_EVENT_MPROTECT, /* exit, success: args addr len prot */
	NL_EVENT_BRK, /* exit: args the requested break and the old break; ret the new break */
	NL_EVENT_SHMGET, /* exit, success: args key size, ret the shmid */
	NL_EVENT_SHMAT, /* exit, success: args shmid, ret the address */
	NL_EVENT_SHMDT, /* entry: args addr */
	NL_EVENT_SHMDT_FAILED, /* exit */
	NL_EVENT_THREAD, /* a new thread, or a renamed one: comm */
	NL_EVENT_THREAD_EXIT, /* comm; ret the exit code */
	NL_EVENT_EXEC,
	NL_EVENT_OOM_KILL,
	NL_EVENT_SHMDT_DONE, /* exit, success */
	NL_EVENT_BUSY, /* NL_BUSY_HITS more calls or frees on one CPU: user space looks at the costs */
};

/* Features that a kernel lacks; see engines/bpf/kernel/features.py. */
enum nl_lack {
	NL_LACKS_ATOMICS = 1, /* atomic operations that return the old value (5.12) */
	NL_LACKS_COOKIES = 2, /* bpf_get_attach_cookie (5.15) */
	NL_LACKS_REGISTERS = 4, /* bpf_task_pt_regs (5.15) */
};

/* Flags of an event. */
#define NL_IN_ALLOCATOR 1u

/* How a frame was found. Bits 56-63 of a frame's first word. */
enum nl_found {
	NL_FOUND_EXACT, /* the leaf, or by the unwind table of its callee */
	NL_FOUND_GUESS, /* by a frame pointer, because its callee has no table: callers may be missing or wrong */
	NL_FOUND_SIGNAL, /* interrupted by a signal, and its object has a table of call sites only (see NL_TABLE_FULL) */
	NL_FOUND_FP, /* by a frame pointer, as requested (--unwind fp) */
	NL_FOUND_GAP, /* no frame: frames are missing here; the second word is enum nl_end */
	NL_FOUND_SITE, /* the leaf: the call instruction, of a call site that is watched by itself */
	/* Java frames. */
	NL_FOUND_COMPILED =
		16, /* address of the blob; compile id << 32 | offset of pc in the blob */
	NL_FOUND_INTERPRETED, /* address of the Method; NL_PLACE_* and its cookie */
	NL_FOUND_ENTRY, /* no frame: Java was called from native code */
	NL_FOUND_BARRIER, /* no frame: the virtual thread's other frames are in the heap; the carrier follows */
	NL_FOUND_NO_BLOB, /* address in the code cache that is in no blob */
};

/*
 * Second word of an interpreted frame. Low bits: bytes from the ConstMethod to the bytecode, or NL_PLACE_NONE. High
 * bits: a cookie of the method, because another method may have its addresses once its class is unloaded.
 */
#define NL_PLACE_BITS 17
#define NL_PLACE_NONE ((1u << NL_PLACE_BITS) - 1)
#define NL_COOKIE_NONE 0 /* part of the names was not in memory */
#define NL_COOKIE_ARCHIVED 1 /* class in the JVM's archive, whose memory is never reused */
/* Bytes at the end of a name that go into a cookie, and the multiplier of its hash. */
#define NL_NAME_TAIL_BYTES 32
#define NL_HASH_FACTOR 0x9e3779b97f4a7c15ULL /* 2^64 over the golden ratio, odd */

/* How a walk ended. */
enum nl_end {
	NL_END_ROOT, /* at the outermost frame: by its table, or at an invented return address */
	NL_END_STEPS, /* after NL_ROUNDS * NL_STEPS frames */
	NL_END_NO_MAPPING, /* in memory that is not known as code */
	NL_END_NO_TABLE, /* in code without unwind information whose frame pointer is not one */
	NL_END_RULE, /* at a rule that is not supported */
	NL_END_READ, /* at a page that is not in memory */
	NL_END_BAD_SP, /* the stack pointer did not move up */
	NL_END_STALL, /* at a return address of zero */
	NL_END_NO_FP, /* at an invalid frame pointer (--unwind fp) */
	NL_END_JAVA_FRAME = 10, /* at a Java frame with an unexpected layout */
};

enum nl_state {
	NL_OFF,
	NL_ON,
	NL_COUNTING, /* allocator probes count their hits and do nothing else */
};

enum nl_unwind { NL_UNWIND_FP, NL_UNWIND_TABLES };

/* A system call wrapper of the C library that has a frame. */
struct nl_wrapper {
	__u64 start;
	__u64 end;
	__u64 frame_bytes; /* from the stack pointer at the call to the return address */
};

#define NL_WRAPPERS 4

/* An executable mapping of a target. */
struct nl_mapping {
	__u64 start;
	__u64 end;
	__u64 bias; /* address in memory minus address in the object */
	__u32 table; /* index in tables, or NL_NO_TABLE */
	__u32 pad;
};

#define NL_NO_TABLE 0xffffffffu
#define NL_MAX_TABLES 4096
/* A power of two; 64 KiB a bank. If there are more, user space drops those without a table first, and says so. */
#define NL_MAX_MAPPINGS 2048

/* The mappings of one target by address. Each target has two banks, used in turns. */
struct nl_mappings {
	__u32 n;
	__u32 pad;
	struct nl_mapping mappings[NL_MAX_MAPPINGS];
};

/*
 * An unwind table: 32-bit words in chunks of 4 KiB, written by tracer/nativeleak/unwind/pack.py. Addresses are those
 * of the object's ELF file.
 */
#define NL_CHUNK_WORDS 1024
enum nl_table_word {
	NL_TABLE_PAGES, /* how many */
	NL_TABLE_FIRST_PAGE, /* address >> shift of the first */
	NL_TABLE_SHIFT,
	NL_TABLE_RULES, /* index of the first rule's first word; even */
	NL_TABLE_N_RULES,
	NL_TABLE_FORMAT, /* bits 0-15: version; bit 16: full, valid at every address */
	NL_TABLE_DIRECTORY, /* one word per page: index of its first row << 10 | number of rows */
};
#define NL_TABLE_FULL (1u << 16)

/* A rule. Bits 0-7: kind; 8-15: rule of rbp; 16-31: its offset; 32-63: offset of the CFA. */
enum nl_rule_kind {
	NL_RULE_NONE,
	NL_RULE_RSP, /* CFA = rsp + offset */
	NL_RULE_RBP, /* CFA = rbp + offset */
	NL_RULE_RBP_DEREF, /* CFA = *(rbp + low 16 bits) + high 16 bits */
	NL_RULE_SIGNAL = 5, /* the registers are in the signal frame */
	NL_RULE_ROOT, /* no caller */
	NL_RULE_PLT,
	NL_RULE_GO, /* a call from Go into C: see step_go */
	NL_RULE_BAD = 9, /* cannot be expressed */
};

enum nl_rbp_rule { NL_RBP_SAME, NL_RBP_AT_CFA, NL_RBP_AT_RBP };

/* One target, written by user space. */
struct nl_target {
	__u32 tgid;
	__u32 pad;
	__u64 start_ns; /* CLOCK_MONOTONIC when the window opened */
	__u64 min_size; /* bytes; smaller requests are skipped */
	__u64 max_size; /* larger requests are skipped; 0: no limit */
	__u64 wrappers_start; /* text of the C library, most of whose wrappers have no frame */
	__u64 wrappers_end;
	__u32 generation; /* of the birth slices: their width is 2^(20+10+generation) ns */
	__u32 max_depth; /* at most NL_MAX_FRAMES, even */
	__u32 epoch; /* of its mappings: grows with each change; the low bit selects the bank of nl_mappings */
	__u32 unwind; /* enum nl_unwind */
	struct nl_wrapper wrappers[NL_WRAPPERS]; /* those with a frame; unused: all zero */
	__u64 sample_rate; /* mean bytes between samples; 0: every block is recorded */
	__u64 sample_above; /* blocks of this size or more are always recorded */
	__u32 flags; /* enum nl_target_flag */
	__u32 pad2;
	__u64 start_tick; /* jiffy when the window opened; 0: not computed yet; used by BPF code only */
};

enum nl_target_flag {
	NL_TARGET_PARTIAL = 1, /* some live blocks never were in the live set */
	NL_TARGET_FREES = 2, /* only frees are recorded */
	NL_TARGET_NO_BUDGET = 4, /* nobody decides whether calls cost too much: no NL_EVENT_BUSY */
};

/* Whether the returns of a function may be declined. */
struct nl_function {
	__u32 calls; /* followed to their end, up to NL_LEAF_CALLS */
	__u32 nests; /* it has called another allocator function */
};

/* Entries of the cache of blocks, a power of two. A block whose entry is taken overflows into `live`. */
#define NL_LIVE_CACHE_BITS 16
/* The same for sites. */
#define NL_SITE_CACHE_BITS 10
/* Key of an entry that is being written; no block has this address. */
#define NL_LIVE_CACHE_BUSY 1

/* Entries of thread_cache, a power of two. A thread whose entry is taken is in `threads`. */
#define NL_THREAD_CACHE_SIZE 4096

/* Calls of a function that are followed, without a nested call, before its returns are declined. */
#define NL_LEAF_CALLS 64

/* A heap of the JVM's code cache. */
struct nl_java_heap {
	__u64 low;
	__u64 high;
	__u64 segments; /* the segment map: one byte per segment */
};

#define NL_JAVA_HEAPS 4

/*
 * Layout of a HotSpot JVM: addresses, and offsets in bytes. User space reads them from the JVM's description of
 * itself.
 */
struct nl_java {
	__u64 code_low;
	__u64 code_high;
	struct nl_java_heap heaps[NL_JAVA_HEAPS];
	__u64 interpreter_low;
	__u64 interpreter_high;
	__u64 call_stub_return;
	__u64 return_barrier; /* 0: no virtual threads */
	__u64 tls_offset;
	__u32 tls_module;
	__u32 dtv_stride; /* 0: the thread-local variable was not found */
	__u32 segment_shift;
	__u32 heap_block_bytes; /* header in front of a blob */
	__u32 blob_frame_size; /* CodeBlob::_frame_size, in words */
	__u32 nmethod_compile_id;
	__s32 call_wrapper_offset; /* of the JavaCallWrapper pointer, from the frame pointer */
	__u32 call_wrapper_anchor;
	__u32 anchor_sp;
	__u32 anchor_pc;
	__u32 anchor_fp;
	__u32 thread_anchor; /* JavaThread::_anchor; 0: unknown */
	__u32 cont_entry; /* JavaThread::_cont_entry; 0: unknown */
	__u32 cont_entry_bytes;
	__u32 deopt_handler; /* in an nmethod: return address of deoptimized frames; 0: unknown */
	__u32 deopt_mh_handler; /* the same for method handle calls; 0: none */
	__u32 deopt_handler_bytes; /* 8: addresses; 4: offsets from the nmethod */
	__u32 orig_pc; /* in an nmethod: offset from sp of the original return address */
	/* Names of methods and classes, for the cookies of interpreted methods. */
	__u64 archive_low; /* classes from the JVM's archive */
	__u64 archive_high;
	__u64 symbol_mask; /* for the first 8 bytes of a Symbol: all but its reference count */
	__u32 symbol_length; /* at most 6 */
	__u32 symbol_body;
	__u32 method_const; /* Method::_constMethod; 0: unknown */
	__u32 const_pool; /* ConstMethod::_constants */
	__u32 const_name; /* ConstMethod::_name_index */
	__u32 pool_holder; /* ConstantPool::_pool_holder */
	__u32 pool_bytes; /* size of the header; the entries follow */
	__u32 class_name; /* Klass::_name */
};

/* A block that is outstanding. */
struct nl_live {
	__u64 bytes; /* requested bytes, divided by the probability of being sampled */
	__u64 stack; /* with thread: its site */
	__u32 thread;
	__u32 born; /* time since the window opened, in 2^20 ns */
	__u32 count; /* number of blocks that it stands for */
	__u32 kept; /* probability of being sampled, 32 fractional bits; 0: certain */
};

struct nl_site_key {
	__u64 stack;
	__u32 thread; /* uid, because a tid may be reused */
	__u32 slot;
};

/*
 * `check` of a site that user space is about to delete: its thread books on the twin of the site instead, whose thread
 * has NL_TWIN set.
 */
#define NL_RETIRING 0x52455449
#define NL_TWIN (1U << 31)
/* Sites that one run of on_retire marks. */
#define NL_RETIRING_SITES 256

struct nl_marked_site {
	struct nl_site_key key;
	__u32 check; /* what `check` of the site becomes */
	__u32 pad;
};

struct nl_marked_sites {
	__u64 n;
	struct nl_marked_site sites[NL_RETIRING_SITES];
};

struct nl_slice {
	__s64 bytes;
	__s64 count;
};

/*
 * Totals of a site. Freed comes before allocated: a reader that copies from front to back never sees more freed than
 * allocated. Slices are differences since a moment that only user space knows, so they may be negative; see
 * ledger/slices.py.
 */
struct nl_site {
	__u64 freed_bytes;
	__u64 freed_count;
	__u64 allocated_bytes;
	__u64 allocated_count;
	__u32 check; /* second hash of the stack, to detect collisions of the first */
	__u32 pad;
	struct nl_slice slices[NL_BANKS][NL_SLICES];
};

/* One frame: address | enum nl_found << 56, and a second word for frames that need one. */
struct nl_frame {
	__u64 address;
	__u64 extra;
};

/* A stack; its frames are in stack_frames. */
struct nl_stack {
	__u32 n; /* number of frames walked, leaf first */
	__u32 depth; /* most frames kept: of a deeper stack the first half and the last half */
	__u32 end; /* enum nl_end */
	__u32 check;
	__u32 slot;
	__u32 pad;
};

struct nl_chunk_key {
	__u64 stack;
	__u32 chunk;
	__u32 pad;
};

struct nl_chunk {
	struct nl_frame frames[NL_CHUNK_FRAMES];
};

/* A thread of a target, from its first call to its end. It has at most one call in flight. */
struct nl_thread {
	__u32 uid;
	__u32 slot;
	__u32 call; /* enum nl_alloc_call in flight; NL_ALLOC_CALL_NONE outside the allocator */
	__u16 held; /* a realloc has taken `old` out of the live set */
	__u16 skipped; /* not recorded at its return: outside the size limits, or not sampled */
	__u64 sp; /* stack pointer at the entry */
	__u64 ip; /* address of the function: the leaf frame */
	__u64 size;
	__u64 pointer; /* realloc: the old block; posix_memalign: where the new block is stored */
	__u64 return_address; /* arm64; x86-64: of a call that ends at exits */
	struct nl_weight weight; /* of the block that this call makes */
	__u64 until_sample; /* bytes */
	__u64 sample_rate; /* rate for which until_sample was drawn */
	__u32 function; /* index in `functions`; 0 for none */
	__u32 tid; /* owner; 0: nobody */
	struct nl_live old;
	__u64 deleted; /* block of an NL_ALLOC_CALL_DELETE: free may get it too */
	__u32 syscall; /* enum nl_event_type of the system call in progress */
	__u32 pad;
	__u64 syscall_args[6];
	__u64 taken; /* in thread_cache: the entry has an owner */
	__u64 probed; /* address of the probe that ran last; no call returns to it */
	__u64 fp; /* frame pointer at the entry, of a call that ends at exits */
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

_Static_assert(sizeof(struct nl_target) == 96 + NL_WRAPPERS * 24, "nl_target");
_Static_assert(sizeof(struct nl_live) == 32, "nl_live");
_Static_assert(sizeof(struct nl_site_key) == 16, "nl_site_key");
_Static_assert(sizeof(struct nl_site) == 40 + NL_BANKS * NL_SLICES * 16, "nl_site");
_Static_assert(sizeof(struct nl_marked_sites) == 8 + 24 * NL_RETIRING_SITES, "nl_marked_sites");
_Static_assert(sizeof(struct nl_stack) == 24, "nl_stack");
_Static_assert(sizeof(struct nl_chunk) == 1024, "nl_chunk");
_Static_assert(sizeof(struct nl_mappings) == 8 + 32 * NL_MAX_MAPPINGS, "nl_mappings");
_Static_assert(sizeof(struct nl_java) == 280, "nl_java");
_Static_assert(sizeof(struct nl_thread) == 216, "nl_thread");
_Static_assert(sizeof(struct nl_event) == 96, "nl_event");

#endif /* NATIVELEAK_H */
