/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the kernel side and tracer/nativeleak/engines/bpf/kernel/abi.py share. Every struct's size is
 * asserted here and there; a field moves in both files or in neither.
 */
#ifndef NATIVELEAK_H
#define NATIVELEAK_H

#include "sample.h"

#define NL_MAX_TARGETS 64
#define NL_SLICES 16
#define NL_BANKS 2
/* Frames of a stack that can be kept; a deeper one keeps both its ends. */
#define NL_MAX_FRAMES 512
/*
 * A walk that is not at the root after NL_ROUNDS * NL_STEPS frames ends there. Two loops, one in a function of
 * its own, so that the verifier goes through 128 + 8 rounds instead of 1,024; those of a step are by far the dearer.
 */
#ifdef NATIVELEAK_BCC
/* Without functions the verifier goes through all rounds in each program. */
#define NL_ROUNDS 12
#define NL_STEPS 12
#else
#define NL_ROUNDS 128
#define NL_STEPS 8
#endif
/* Frames of one element of the stack store: a short stack takes little. */
#define NL_CHUNK_FRAMES 64
/* A task may be preempted in the middle of a walk, so one scratch a CPU is not enough. */
#define NL_SCRATCH_PER_CPU 8
/* Birth times count in units of 2^20 ns (1.05 ms): 32 bits last 52 days. */
#define NL_BORN_SHIFT 20
/* Width of a birth slice of generation 0 is 2^10 such units (1.07 s); each generation doubles it. */
#define NL_SLICE_SHIFT 10
/* Functions of a target whose returns may be declined; 0 stands for all others. */
#define NL_FUNCTIONS 16
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
	NL_CALL_NEW, /* (size) -> block: a C++ operator, which throws where malloc returns 0 */
};

/*
 * Cookie of a probe: enum nl_call in bits 0-7, slot of the target in 8-15. A probe need not sit on the first
 * instruction: how far behind it, in bytes, is in bits 16-31, what has been pushed by then in 32-47, and which
 * registers the arguments are in, in 48-59. Bits 60-63: the function's number among those of the target whose
 * return may be declined, 0 for one whose return never is.
 */
#define NL_COOKIE_CALL(cookie) ((cookie)&0xff)
#define NL_COOKIE_SLOT(cookie) (((cookie) >> 8) & 0xff)
#define NL_COOKIE_OFFSET(cookie) (((cookie) >> 16) & 0xffff)
#define NL_COOKIE_PUSHED(cookie) (((cookie) >> 32) & 0xffff)
#define NL_COOKIE_FUNCTION(cookie) ((cookie) >> 60)
/* Registers of arguments 1 to 3, as x86-64 counts them, when the code before the probe has moved them. */
#define NL_COOKIE_REGISTER(cookie, argument) (((cookie) >> (44 + 4 * (argument))) & 0xf)

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
	NL_CALLS, /* times a probe at the entry of an allocating function ran */
	NL_FREES, /* times a probe at the entry of a freeing function ran */
	NL_DECLINED, /* of the calls: those whose return was not wanted */
	NL_UNSAMPLED, /* allocations that sampling left out */
	NL_UNSAMPLED_FREES, /* frees of blocks not in the live set while some are left out of it */
	NL_NUMBERED, /* threads numbered by this processor, where the kernel lacks atomics */
	NL_N_COUNTERS,
};

enum nl_event_type {
	NL_EVENT_NONE,
	NL_EVENT_STACK, /* a new stack lies in the stack store */
	NL_EVENT_MMAP, /* exit, success: args addr len prot flags fd offset */
	NL_EVENT_MUNMAP, /* entry, with the stack: args addr len */
	NL_EVENT_MUNMAP_FAILED, /* exit */
	NL_EVENT_MREMAP, /* entry: args addr old_len new_len flags new_addr */
	NL_EVENT_MREMAP_DONE, /* exit, ret is the address or an error */
	NL_EVENT_MPROTECT, /* exit, success: args addr len prot */
	NL_EVENT_BRK, /* exit: args the break asked for, the break before; ret the break now */
	NL_EVENT_SHMGET, /* exit, success: args key size, ret the shmid */
	NL_EVENT_SHMAT, /* exit, success: args shmid, ret the address */
	NL_EVENT_SHMDT, /* entry: args addr */
	NL_EVENT_SHMDT_FAILED, /* exit */
	NL_EVENT_THREAD, /* a thread seen for the first time, or renamed: comm */
	NL_EVENT_THREAD_EXIT, /* comm; ret the exit code */
	NL_EVENT_EXEC,
	NL_EVENT_OOM_KILL,
	NL_EVENT_SHMDT_DONE, /* exit, success */
};

/* What a kernel is without; see engines/bpf/kernel/features.py. */
enum nl_lack {
	NL_LACKS_ATOMICS = 1, /* operations that give back what was there (5.12) */
	NL_LACKS_COOKIES = 2, /* bpf_get_attach_cookie (5.15) */
	NL_LACKS_REGISTERS = 4, /* bpf_task_pt_regs (5.15) */
};

/* Flags of an event. */
#define NL_IN_ALLOCATOR 1u

/* How a frame was found. In bits 56-63 of a frame's first word. */
enum nl_found {
	NL_FOUND_EXACT, /* the leaf, or by the call-site table of its callee */
	NL_FOUND_GUESS, /* by a frame pointer, its callee having no table: may skip or invent a caller */
	NL_FOUND_SIGNAL, /* interrupted by a signal, its object's table being one of call sites: see 'full' */
	NL_FOUND_FP, /* by a frame pointer, as asked for (--unwind fp) */
	NL_FOUND_GAP, /* no frame: some are missing here; the second word is enum nl_end */
	/* Java frames. */
	NL_FOUND_COMPILED =
		16, /* address of the blob; compile id << 32 | offset of pc in the blob */
	NL_FOUND_INTERPRETED, /* address of the Method; NL_PLACE_* and its cookie */
	NL_FOUND_ENTRY, /* no frame: Java was called from native code */
	NL_FOUND_BARRIER, /* no frame: the rest of a virtual thread is in the heap, the carrier follows */
	NL_FOUND_NO_BLOB, /* an address in the code cache that belongs to no code */
};

/*
 * Second word of an interpreted frame: bytes from the ConstMethod to the bytecode, NL_PLACE_NONE where it is not in
 * there, and above them a cookie of the method: once a class is gone, another may have its addresses.
 */
#define NL_PLACE_BITS 17
#define NL_PLACE_NONE ((1u << NL_PLACE_BITS) - 1)
#define NL_COOKIE_NONE 0 /* a part of it was not in memory */
#define NL_COOKIE_ARCHIVED 1 /* in the JVM's archive of classes, whose memory is never used again */
/* Bytes at the end of a name that go into a cookie, and the multiplier of its hash. */
#define NL_NAME_TAIL_BYTES 32
#define NL_HASH_FACTOR 0x9e3779b97f4a7c15ULL /* 2^64 over the golden ratio, odd */

/* How a walk ended. */
enum nl_end {
	NL_END_ROOT, /* at the outermost frame: the table says so, or a made-up return address */
	NL_END_STEPS, /* after NL_ROUNDS * NL_STEPS frames */
	NL_END_NO_MAPPING, /* in memory that was not known to be code */
	NL_END_NO_TABLE, /* in code without unwind information, its frame pointer leading nowhere */
	NL_END_RULE, /* at a rule that cannot be followed */
	NL_END_READ, /* at a page that is not in memory */
	NL_END_BAD_SP, /* the stack pointer did not move up */
	NL_END_STALL, /* at a return address of zero */
	NL_END_NO_FP, /* at a frame pointer that leads nowhere (--unwind fp) */
	NL_END_NO_SCRATCH, /* no buffer: leaf and caller only */
	NL_END_JAVA_FRAME, /* at a Java frame that is not as expected */
};

enum nl_state {
	NL_OFF,
	NL_ON,
	NL_COUNTING, /* allocator probes count that they ran, and do nothing else */
};

enum nl_unwind { NL_UNWIND_FP, NL_UNWIND_TABLES };

/* A system call wrapper of the C library that makes room on the stack before the call. */
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
	__u64 bias; /* address minus what the object's own addresses say */
	__u32 table; /* index in tables, or NL_NO_TABLE */
	__u32 pad;
};

#define NL_NO_TABLE 0xffffffffu
/* A power of two; 64 KiB a bank. Beyond it user space leaves out what has no table first, and says so. */
#define NL_MAX_MAPPINGS 2048

/* The mappings of one target in order of address; two of these a target, in turns. */
struct nl_mappings {
	__u32 n;
	__u32 pad;
	struct nl_mapping mappings[NL_MAX_MAPPINGS];
};

/*
 * An unwind table: words of 32 bits in chunks of 4 KiB, made by tracer/nativeleak/unwind/pack.py.
 * Addresses are those of the object's own ELF file.
 */
#define NL_CHUNK_WORDS 1024
enum nl_table_word {
	NL_TABLE_PAGES, /* how many */
	NL_TABLE_FIRST_PAGE, /* address >> shift of the first */
	NL_TABLE_SHIFT,
	NL_TABLE_RULES, /* index of the first rule's first word, even */
	NL_TABLE_N_RULES,
	NL_TABLE_FORMAT, /* version in bits 0-15, bit 16: full, good for any address */
	NL_TABLE_DIRECTORY, /* a word a page: index of its first row << 10 | rows */
};
#define NL_TABLE_FULL (1u << 16)

/* A rule: kind in bits 0-7, rule of rbp in 8-15, its offset in 16-31, offset of the CFA in 32-63. */
enum nl_rule_kind {
	NL_RULE_NONE,
	NL_RULE_RSP, /* CFA = rsp + offset */
	NL_RULE_RBP, /* CFA = rbp + offset */
	NL_RULE_RBP_DEREF, /* CFA = *(rbp + low 16 bits) + high 16 bits */
	NL_RULE_SIGNAL = 5, /* registers are in the signal frame */
	NL_RULE_ROOT, /* no caller */
	NL_RULE_PLT,
	NL_RULE_BAD = 9, /* not expressible */
};

enum nl_rbp_rule { NL_RBP_SAME, NL_RBP_AT_CFA, NL_RBP_AT_RBP };

/* One target, written by user space. */
struct nl_target {
	__u32 tgid;
	__u32 pad;
	__u64 start_ns; /* CLOCK_MONOTONIC when the window opened */
	__u64 min_size; /* requested bytes; smaller calls are skipped */
	__u64 max_size; /* larger calls are skipped; 0: no limit */
	__u64 wrappers_start; /* text of the C library: most of its wrappers have no frame */
	__u64 wrappers_end;
	__u32 generation; /* of the birth slices: their width is 2^(20+10+generation) ns */
	__u32 max_depth; /* at most NL_MAX_FRAMES, even */
	__u32 epoch; /* of its code: grows with each change of nl_mappings, of which the low bit says the one in force */
	__u32 unwind; /* enum nl_unwind */
	struct nl_wrapper wrappers[NL_WRAPPERS]; /* those that do have one; unused: all zero */
	__u64 sample_rate; /* mean bytes from one sample to the next; 0: every block is kept */
	__u64 sample_above; /* blocks of this size or more are kept for certain */
	__u32 flags; /* enum nl_target_flag */
	__u32 pad2;
	__u64 start_tick; /* of the kernel's clock when the window opened; 0: not worked out yet; not for user space */
};

enum nl_target_flag {
	NL_TARGET_PARTIAL = 1, /* blocks may live that never were in the live set */
	NL_TARGET_FREES = 2, /* frees only: what is allocated is not recorded */
};

/* What is known of a function of which a return may be declined. */
struct nl_function {
	__u32 calls; /* seen to their end, up to NL_LEAF_CALLS */
	__u32 nests; /* it has called another allocator function */
};

/* Places of near_keys, a power of two. A block whose place is another's is in live. */
#define NL_NEAR_BITS 16
/* The same of sites. */
#define NL_NEAR_SITE_BITS 10
/* A place that is being written: no address of a block. */
#define NL_NEAR_BUSY 1

/* Places of near_threads, a power of two. A thread whose place is another's is in threads. */
#define NL_NEAR_THREADS 4096

/* Calls of a function that must have gone by without a call inside before returns are declined. */
#define NL_LEAF_CALLS 64

/* A part of the JVM's code cache. */
struct nl_java_heap {
	__u64 low;
	__u64 high;
	__u64 segments; /* the segment map: a byte a segment */
};

#define NL_JAVA_HEAPS 4

/* Where things lie in a HotSpot JVM: addresses, and offsets in bytes. Read from its own description of itself. */
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
	__u32 dtv_stride; /* 0: the thread-local variable is not known */
	__u32 segment_shift;
	__u32 heap_block_bytes; /* header in front of a blob */
	__u32 blob_frame_size; /* CodeBlob::_frame_size, in words */
	__u32 nmethod_compile_id;
	__s32 call_wrapper_offset; /* of the JavaCallWrapper pointer, from the frame pointer */
	__u32 call_wrapper_anchor;
	__u32 anchor_sp;
	__u32 anchor_pc;
	__u32 anchor_fp;
	__u32 thread_anchor; /* JavaThread::_anchor; 0: not known */
	__u32 cont_entry; /* JavaThread::_cont_entry; 0: not known */
	__u32 cont_entry_bytes;
	__u32 deopt_handler; /* in an nmethod: where frames return to that were deoptimized; 0: not known */
	__u32 deopt_mh_handler; /* the same for calls of method handles; 0: there is none */
	__u32 deopt_handler_bytes; /* 8: they are addresses; 4: offsets from the nmethod */
	__u32 orig_pc; /* in an nmethod: offset from sp of the return address that was there before */
	/* Names of methods and classes, for cookies of interpreted methods. */
	__u64 archive_low; /* classes from the JVM's archive */
	__u64 archive_high;
	__u64 symbol_mask; /* of the first 8 bytes of a Symbol: without its reference count */
	__u32 symbol_length; /* at most 6 */
	__u32 symbol_body;
	__u32 method_const; /* Method::_constMethod; 0: not known */
	__u32 const_pool; /* ConstMethod::_constants */
	__u32 const_name; /* ConstMethod::_name_index */
	__u32 pool_holder; /* ConstantPool::_pool_holder */
	__u32 pool_bytes; /* the entries follow */
	__u32 class_name; /* Klass::_name */
};

/* A block that is outstanding. */
struct nl_live {
	__u64 bytes; /* as requested, divided by the probability of being kept */
	__u64 stack; /* with thread: the site it is booked on */
	__u32 thread;
	__u32 born; /* since the window opened, 2^20 ns */
	__u32 count; /* of blocks that it stands for */
	__u32 kept; /* probability of being kept, 32 bits behind the point; 0: certain */
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

/* One frame: address and enum nl_found << 56; the second word is for frames that need one. */
struct nl_frame {
	__u64 address;
	__u64 extra;
};

/* Facts of a stack; its frames are in stack_frames. */
struct nl_stack {
	__u32 n; /* frames walked, leaf first */
	__u32 depth; /* frames kept: of more, the first half and the last half */
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
	__u64 return_address; /* arm64 only */
	struct nl_weight weight; /* of the block that the call in flight makes */
	__u64 until_sample; /* bytes */
	__u64 sample_rate; /* that until_sample was drawn for */
	__u32 function; /* of the call in flight: index in functions, 0 for none */
	__u32 tid; /* whose it is; 0: of nobody */
	struct nl_live old;
	__u64 deleted; /* block that operator delete took: free may see it again */
	__u32 syscall; /* enum nl_event_type of the system call that is under way */
	__u32 pad;
	__u64 syscall_args[6];
	__u64 taken; /* in near_threads: a place that has an owner */
	__u64 probed; /* address of the probe that it came through last: no call returns to there */
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
_Static_assert(sizeof(struct nl_stack) == 24, "nl_stack");
_Static_assert(sizeof(struct nl_chunk) == 1024, "nl_chunk");
_Static_assert(sizeof(struct nl_mappings) == 8 + 32 * NL_MAX_MAPPINGS, "nl_mappings");
_Static_assert(sizeof(struct nl_java) == 280, "nl_java");
_Static_assert(sizeof(struct nl_thread) == 208, "nl_thread");
_Static_assert(sizeof(struct nl_event) == 96, "nl_event");

#endif /* NATIVELEAK_H */
