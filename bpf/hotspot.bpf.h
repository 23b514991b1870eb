/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Java frames of HotSpot. Where everything lies in this JVM is told by user space, which reads it from the
 * JVM's own description of itself (tracer/nativeleak/runtimes/hotspot/layout.py); nothing here depends on a version.
 *
 * Compiled code is found through the segment map of the code cache, which lies in the target's memory and is
 * always current; the frame size in its blob leads to the caller. Memory of the target is read and never
 * trusted: every step goes up, and every address is checked before it is taken for code.
 */
#ifndef NATIVELEAK_HOTSPOT_BPF_H
#define NATIVELEAK_HOTSPOT_BPF_H

#include "common.bpf.h"
#include "scratch.bpf.h"

/* slot -> what is known of the target's JVM; code_high is 0 where it is none. Written by user space. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NL_MAX_TARGETS);
	__type(key, u32);
	__type(value, struct nl_java);
} javas SEC(".maps");

/*
 * Interpreted methods that were looked at, by a hash of their address. Nothing is locked: `check` is made of all the
 * rest, of whose method it is and when it was looked at, so that halves of two entries do not pass for one.
 */
#define NL_METHODS 4096
struct method {
	u64 check;
	u64 const_method;
	u64 cookie;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, NL_METHODS);
	__type(key, u32);
	__type(value, struct method);
} methods SEC(".maps");

#if defined(__TARGET_ARCH_x86)

/* Segment map entries that lead back to the start of a blob: each goes up to 254 segments. */
#define MAX_SEGMENT_HOPS 20
/* Most bytes of an interpreted frame, and of a stub's frame by frame pointer. */
#define MAX_INTERPRETED_BYTES (512 << 10)
#define MAX_STUB_BYTES (64 << 10)
/* Most words of a compiled frame: 512 KiB. */
#define MAX_FRAME_WORDS (64 << 10)
#define MAX_ANCHOR_BYTES (64 << 20)

/*
 * Words of an interpreted frame, from fp - 8 words. Source: src/hotspot/cpu/x86/frame_x86.hpp, the same in
 * JDK 11 to 25.
 */
enum interpreted_frame {
	FRAME_BCP,
	FRAME_METHOD = 5,
	FRAME_SENDER_SP = 7,
	FRAME_LINK,
	FRAME_RETURN,
};

_Static_assert(FRAME_RETURN + 1 == NL_FRAME_WORDS, "interpreted frame");

struct thread_struct {
	unsigned long fsbase;
} __attribute__((preserve_access_index));

struct task_struct___thread {
	struct thread_struct thread;
} __attribute__((preserve_access_index));

static __always_inline int in_code_cache(const struct nl_java *java, u64 address)
{
	return address >= java->code_low && address < java->code_high;
}

static __always_inline void push_java(struct scratch *scr, u32 kind, u64 address, u64 extra)
{
	scr->found = kind;
	push_frame(scr, address, extra);
	scr->found = NL_FOUND_EXACT;
}

/* The JavaThread of the running thread, by libjvm's thread-local variable; 0 where there is none. */
static __always_inline u64 java_thread(const struct nl_java *java)
{
	struct task_struct___thread *task = (void *)bpf_get_current_task();
	u64 fsbase = BPF_CORE_READ(task, thread.fsbase), dtv, block, thread;

	if (!java->dtv_stride || bpf_probe_read_user(&dtv, sizeof(dtv), (void *)(fsbase + 8)) ||
	    bpf_probe_read_user(&block, sizeof(block),
				(void *)(dtv + (u64)java->tls_module * java->dtv_stride)) ||
	    bpf_probe_read_user(&thread, sizeof(thread), (void *)(block + java->tls_offset)))
		return 0;
	return thread;
}

/* The anchor of the running thread: where Java code left for native code last. 0 where it is not known. */
static __always_inline u64 last_anchor(const struct nl_java *java)
{
	u64 thread = java_thread(java);

	return thread && java->thread_anchor ? thread + java->thread_anchor : 0;
}

/*
 * The walk has come to an end that is not the root: go on at the last Java frame, if the JVM has noted one
 * above. What lies between is missing, and marked. Returns 0 when the walk can go on.
 */
__noinline int resume_at_anchor(u32 index, u32 end)
{
	struct scratch *scr = bpf_map_lookup_elem(&scratch, &index);
	struct nl_java *java;
	u64 at, sp, fp, pc;
	u32 slot;

	if (!scr)
		return 1;
	slot = scr->slot;
	scr->end = end;
	java = bpf_map_lookup_elem(&javas, &slot);
	if (!java || !java->code_high)
		return 1;
	at = scr->has_anchor ? scr->anchor_at : last_anchor(java);
	scr->has_anchor = 1;
	scr->anchor_at = 0;
	if (!at || bpf_probe_read_user(&sp, sizeof(sp), (void *)(at + java->anchor_sp)) ||
	    bpf_probe_read_user(&pc, sizeof(pc), (void *)(at + java->anchor_pc)) ||
	    bpf_probe_read_user(&fp, sizeof(fp), (void *)(at + java->anchor_fp)))
		return 1;
	if (!sp || sp < scr->sp || sp - scr->sp > MAX_ANCHOR_BYTES)
		return 1;
	/* The interpreter leaves no pc: its return address lies below the stack pointer. */
	if (!pc && bpf_probe_read_user(&pc, sizeof(pc), (void *)(sp - 8)))
		return 1;
	if (!in_code_cache(java, pc))
		return 1;
	push_java(scr, NL_FOUND_GAP, scr->pc & ((1ULL << 56) - 1), end);
	scr->sp = sp;
	scr->fp = fp;
	scr->pc = pc;
	scr->exact = 0;
	scr->end = NL_END_ROOT;
	return 0;
}

/* The blob (nmethod or stub) that holds an address of the code cache, 0 where there is none. */
__noinline u64 find_blob(u32 slot, u64 pc)
{
	struct nl_java *java = bpf_map_lookup_elem(&javas, &slot);
	u64 low = 0, segments = 0, segment;
	u32 shift;

	if (!java)
		return 0;
#pragma unroll
	for (int i = 0; i < NL_JAVA_HEAPS; i++) {
		if (pc >= java->heaps[i].low && pc < java->heaps[i].high) {
			low = java->heaps[i].low;
			segments = java->heaps[i].segments;
		}
	}
	if (!low)
		return 0;
	shift = java->segment_shift & 31;
	segment = (pc - low) >> shift;
	for (int i = 0; i < MAX_SEGMENT_HOPS; i++) {
		u8 hop;

		if (bpf_probe_read_user(&hop, sizeof(hop), (void *)(segments + segment)) ||
		    hop == 0xff)
			return 0;
		if (!hop)
			return low + (segment << shift) + java->heap_block_bytes;
		segment -= hop;
	}
	return 0;
}

static __always_inline u64 mix(u64 hash, u64 word)
{
	hash = (hash ^ word) * NL_HASH_FACTOR;
	return hash ^ hash >> 32;
}

/*
 * The hash with a name in it: where it lies, its length, the random number that the JVM gave it, how it begins and
 * ends. 0 where it cannot be read.
 */
__noinline u64 mix_name(u32 index, u64 symbol, u64 hash)
{
	struct scratch *scr = bpf_map_lookup_elem(&scratch, &index);
	struct nl_java *java;
	u64 head, tail[NL_NAME_TAIL_BYTES / 8] = {};
	u32 slot, length, n;

	if (!scr)
		return 0;
	slot = scr->slot;
	java = bpf_map_lookup_elem(&javas, &slot);
	if (!java || bpf_probe_read_user(&head, sizeof(head), (void *)symbol))
		return 0;
	length = head >> (java->symbol_length * 8 & 63) & 0xffff;
	n = length < NL_NAME_TAIL_BYTES ? length : NL_NAME_TAIL_BYTES;
	/* clang knows the bound, the verifier wants to see it. */
	asm volatile("" : "+r"(n));
	if (n > sizeof(tail))
		return 0;
	if (bpf_probe_read_user(tail, n, (void *)(symbol + java->symbol_body + length - n)))
		return 0;
	hash = mix(mix(hash, symbol), head & java->symbol_mask);
	for (int i = 0; i < NL_NAME_TAIL_BYTES / 8; i++)
		hash = mix(hash, tail[i]);
	return hash ? hash : 1;
}

/*
 * What tells an interpreted method from another that gets its addresses after its class is gone: the names of the class
 * and of the method. hotspot/identity.py reckons the same when the frame gets its name.
 */
static __always_inline u64 method_cookie(struct scratch *scr, const struct nl_java *java,
					 u64 const_method)
{
	u64 pool, holder, class_name, method_name, hash;
	__u16 name = 0;

	if (bpf_probe_read_user(&pool, sizeof(pool), (void *)(const_method + java->const_pool)) ||
	    bpf_probe_read_user(&name, sizeof(name), (void *)(const_method + java->const_name)) ||
	    bpf_probe_read_user(&holder, sizeof(holder), (void *)(pool + java->pool_holder)) ||
	    bpf_probe_read_user(&method_name, sizeof(method_name),
				(void *)(pool + java->pool_bytes + 8 * (u64)name)) ||
	    bpf_probe_read_user(&class_name, sizeof(class_name),
				(void *)(holder + java->class_name)))
		return NL_COOKIE_NONE;
	hash = mix_name(scr->index, class_name, const_method);
	if (hash)
		hash = mix_name(scr->index, method_name, hash);
	if (!hash)
		return NL_COOKIE_NONE;
	hash >>= NL_PLACE_BITS;
	return hash > NL_COOKIE_ARCHIVED ? hash : NL_COOKIE_ARCHIVED + 1;
}

/*
 * Was this seen in the present tick of the kernel's clock, 1 to 10 ms long? Then it is taken to be so still. What is
 * remembered was on a stack when it was looked at. For another to be in its place by now the JVM must have found it
 * unused, freed it, and made the other from its class file or by its compiler, all of that within the tick.
 */
static __always_inline int is_of_now(u32 tick)
{
	return tick == (u32)bpf_jiffies64();
}

/* See `methods`. */
static __always_inline u64 check_method(const struct scratch *scr, u64 address, u32 tick,
					u64 const_method, u64 cookie)
{
	return mix(mix(mix(address ^ (u64)scr->slot << 56, (u64)tick << 32), const_method), cookie);
}

_Static_assert(NL_METHODS == 1 << (64 - 52), "methods");

/* Second word of an interpreted frame. */
static __always_inline u64 interpreted_place(struct scratch *scr, const struct nl_java *java,
					     u64 address, u64 bytecode)
{
	u32 index = address * NL_HASH_FACTOR >> 52, tick = (u32)bpf_jiffies64();
	struct method *method = bpf_map_lookup_elem(&methods, &index);
	u64 const_method, cookie, place;

	if (!method)
		return NL_PLACE_NONE;
	const_method = method->const_method;
	cookie = method->cookie;
	if (method->check != check_method(scr, address, tick, const_method, cookie)) {
		if (!java->method_const ||
		    bpf_probe_read_user(&const_method, sizeof(const_method),
					(void *)(address + java->method_const)))
			return NL_PLACE_NONE;
		cookie = address >= java->archive_low && address < java->archive_high ?
				 NL_COOKIE_ARCHIVED :
				 method_cookie(scr, java, const_method);
		method->const_method = const_method;
		method->cookie = cookie;
		method->check = check_method(scr, address, tick, const_method, cookie);
	}
	place = bytecode - const_method;
	if (place > NL_PLACE_NONE)
		place = NL_PLACE_NONE;
	return cookie << NL_PLACE_BITS | place;
}

static __always_inline int step_interpreted(struct scratch *scr, const struct nl_java *java)
{
	u64 at, method, sender_sp;

	if (scr->fp & 7 || scr->fp < scr->sp || scr->fp - scr->sp > MAX_INTERPRETED_BYTES)
		return end_walk(scr, NL_END_JAVA_FRAME);
	if (read_words(scr, scr->fp - 64, NL_FRAME_WORDS, &at))
		return end_walk(scr, NL_END_READ);
	method = window_word(scr, at + FRAME_METHOD) & ((1ULL << 56) - 1);
	push_java(scr, NL_FOUND_INTERPRETED, method,
		  interpreted_place(scr, java, method, window_word(scr, at + FRAME_BCP)));
	sender_sp = window_word(scr, at + FRAME_SENDER_SP);
	if (sender_sp <= scr->fp || sender_sp - scr->fp > MAX_INTERPRETED_BYTES)
		return end_walk(scr, NL_END_BAD_SP);
	scr->sp = sender_sp;
	scr->fp = window_word(scr, at + FRAME_LINK);
	scr->pc = window_word(scr, at + FRAME_RETURN);
	return 0;
}

/* Java was called from native code here: the wrapper has the anchor of the Java code below. */
static __always_inline int step_entry(struct scratch *scr, const struct nl_java *java)
{
	if (scr->fp & 7 || scr->fp < scr->sp || scr->fp - scr->sp > MAX_STUB_BYTES)
		return end_walk(scr, NL_END_JAVA_FRAME);
	if (read_two(scr, scr->fp + java->call_wrapper_offset))
		return end_walk(scr, NL_END_READ);
	scr->has_anchor = 1;
	scr->anchor_at = scr->two[0] + java->call_wrapper_anchor;
	if (read_two(scr, scr->fp))
		return end_walk(scr, NL_END_READ);
	push_java(scr, NL_FOUND_ENTRY, scr->pc, 0);
	scr->sp = scr->fp + 16;
	scr->fp = scr->two[0];
	scr->pc = scr->two[1];
	return 0;
}

/* A virtual thread goes on in the heap, where it is not followed: go on with its carrier. */
static __always_inline int step_barrier(struct scratch *scr, const struct nl_java *java)
{
	u64 thread = java_thread(java), entry, saved[2];

	push_java(scr, NL_FOUND_BARRIER, scr->pc, 0);
	/* Before the first virtual thread, JDK 21 does not tell how large the entry is. */
	if (!thread || !java->cont_entry || !java->cont_entry_bytes ||
	    bpf_probe_read_user(&entry, sizeof(entry), (void *)(thread + java->cont_entry)))
		return end_walk(scr, NL_END_JAVA_FRAME);
	entry += java->cont_entry_bytes;
	if (entry <= scr->sp || entry - scr->sp > MAX_ANCHOR_BYTES)
		return end_walk(scr, NL_END_BAD_SP);
	if (bpf_probe_read_user(saved, sizeof(saved), (void *)entry))
		return end_walk(scr, NL_END_READ);
	scr->sp = entry + 16;
	scr->fp = saved[0];
	scr->pc = saved[1];
	return 0;
}

/*
 * Some leaf calls from compiled code push registers first: the frame is then larger than its blob says.
 * Compiled code is called from the code cache only, so the first word that points there is the return address.
 */
static __always_inline int find_return_address(struct scratch *scr, const struct nl_java *java)
{
	u64 at;

	if (read_words(scr, scr->sp, NL_SEARCH_WORDS, &at))
		return end_walk(scr, NL_END_BAD_SP);
	for (int i = 0; i < NL_SEARCH_WORDS - 1; i++) {
		if (in_code_cache(java, window_word(scr, at + i + 1))) {
			scr->fp = window_word(scr, at + i);
			scr->pc = window_word(scr, at + i + 1);
			scr->sp += (u64)i * 8 + 16;
			return 0;
		}
	}
	return end_walk(scr, NL_END_BAD_SP);
}

/* Where the code at a place is remembered. */
static __always_inline struct code *code_entry(struct scratch *scr, u64 pc)
{
	u64 at = pc * NL_HASH_FACTOR >> 32;

	/* clang may know the bound and drop the mask that the verifier needs. */
	asm volatile("" : "+r"(at));
	return &scr->codes[at & (NL_CODES - 1)];
}

/* Is this one of the addresses that frames of a deoptimized nmethod return to? */
static __always_inline int is_deopt_handler(const struct nl_java *java, u64 blob, u64 pc)
{
	u64 addresses[2];
	s32 offsets[2];
	void *at = (void *)(blob + java->deopt_handler);
	/* The one for calls of method handles follows, where there is one: both are read at once. */
	int both = java->deopt_mh_handler == java->deopt_handler + java->deopt_handler_bytes;

	if (java->deopt_handler_bytes == sizeof(addresses[0])) {
		if (bpf_probe_read_user(addresses, sizeof(addresses), at))
			return 0;
		return pc == addresses[0] || (both && pc == addresses[1]);
	}
	if (bpf_probe_read_user(offsets, sizeof(offsets), at))
		return 0;
	return pc == blob + offsets[0] || (both && pc == blob + offsets[1]);
}

/* Look the code at scr->pc up in the target. Returns 0 when it is found. */
__noinline int read_code(u32 index)
{
	struct scratch *scr = bpf_map_lookup_elem(&scratch, &index);
	struct nl_java *java;
	struct code *code;
	u32 slot, frame_words, compile_id = 0;
	u64 pc, blob;
	s32 orig_pc;

	if (!scr)
		return 1;
	slot = scr->slot;
	java = bpf_map_lookup_elem(&javas, &slot);
	if (!java)
		return 1;
	pc = scr->pc;
	blob = find_blob(slot, pc);
	if (!blob) {
		push_java(scr, NL_FOUND_NO_BLOB, pc, 0);
		return end_walk(scr, NL_END_JAVA_FRAME);
	}
	if (bpf_probe_read_user(&frame_words, sizeof(frame_words),
				(void *)(blob + java->blob_frame_size)))
		return end_walk(scr, NL_END_READ);
	bpf_probe_read_user(&compile_id, sizeof(compile_id),
			    (void *)(blob + java->nmethod_compile_id));
	/*
	 * A frame whose code became invalid returns to a handler, which says nothing of the methods inlined there: the
	 * return address that was there before is kept in the frame.
	 */
	if (!java->deopt_handler || !is_deopt_handler(java, blob, pc) ||
	    bpf_probe_read_user(&orig_pc, sizeof(orig_pc), (void *)(blob + java->orig_pc)))
		orig_pc = -1;
	code = code_entry(scr, pc);
	code->pc = pc;
	code->blob = blob;
	code->slot = slot;
	code->compile_id = compile_id;
	code->frame_words = frame_words;
	code->orig_pc = orig_pc;
	code->tick = (u32)bpf_jiffies64();
	return 0;
}

/*
 * The code at scr->pc is the one that is remembered. What has its number is the same piece of code: to look that up
 * costs one read of the target's memory, where all of it costs five and more.
 */
static __always_inline int is_known_code(struct scratch *scr, const struct nl_java *java,
					 struct code *code)
{
	u32 compile_id;

	if (code->pc != scr->pc || code->slot != scr->slot)
		return 0;
	if (is_of_now(code->tick))
		return 1;
	if (!java->nmethod_compile_id ||
	    bpf_probe_read_user(&compile_id, sizeof(compile_id),
				(void *)(code->blob + java->nmethod_compile_id)) ||
	    compile_id != code->compile_id)
		return 0;
	code->tick = (u32)bpf_jiffies64();
	return 1;
}

static __always_inline int step_compiled(struct scratch *scr, const struct nl_java *java)
{
	struct code *code = code_entry(scr, scr->pc);
	u64 original;

	if (!is_known_code(scr, java, code) && read_code(scr->index))
		return 1;
	if (code->orig_pc >= 0 &&
	    !bpf_probe_read_user(&original, sizeof(original), (void *)(scr->sp + code->orig_pc)) &&
	    original > code->blob && original < scr->pc)
		scr->pc = original;
	push_java(scr, NL_FOUND_COMPILED, code->blob,
		  (u64)code->compile_id << 32 | (u32)(scr->pc - code->blob));
	if (code->frame_words && code->frame_words <= MAX_FRAME_WORDS) {
		scr->sp += (u64)code->frame_words * 8;
	} else {
		/* A stub without a frame size keeps rbp. */
		if (scr->fp & 7 || scr->fp < scr->sp || scr->fp - scr->sp > MAX_STUB_BYTES)
			return end_walk(scr, NL_END_JAVA_FRAME);
		scr->sp = scr->fp + 16;
	}
	if (read_two(scr, scr->sp - 16))
		return end_walk(scr, NL_END_READ);
	if (!in_code_cache(java, scr->two[1]))
		return find_return_address(scr, java);
	scr->fp = scr->two[0];
	scr->pc = scr->two[1];
	return 0;
}

/*
 * One compiled frame up, where its code is remembered and the frame an ordinary one: nearly every Java frame. Does what
 * step_compiled does. Returns 0 when the walk goes on, 1 when nothing was done: step_java has to be asked then.
 */
static __always_inline int step_known_code(struct scratch *scr)
{
	struct code *code = code_entry(scr, scr->pc);
	u32 slot = scr->slot, words = code->frame_words;
	struct nl_java *java;
	u64 sp;

	if (code->pc != scr->pc || code->orig_pc >= 0 || !words || words > MAX_FRAME_WORDS)
		return 1;
	java = bpf_map_lookup_elem(&javas, &slot);
	if (!java || !is_known_code(scr, java, code))
		return 1;
	sp = scr->sp + (u64)words * 8;
	if (read_two(scr, sp - 16) || !in_code_cache(java, scr->two[1]))
		return 1;
	push_java(scr, NL_FOUND_COMPILED, code->blob,
		  (u64)code->compile_id << 32 | (u32)(scr->pc - code->blob));
	scr->exact = 0;
	scr->sp = sp;
	scr->fp = scr->two[0];
	scr->pc = scr->two[1];
	return 0;
}

/* One Java frame up; pc lies in the code cache. Returns 1 when the walk has ended. */
__noinline int step_java(u32 index)
{
	struct scratch *scr = bpf_map_lookup_elem(&scratch, &index);
	struct nl_java *java;
	u32 slot;

	if (!scr)
		return 1;
	slot = scr->slot;
	java = bpf_map_lookup_elem(&javas, &slot);
	if (!java)
		return 1;
	scr->exact = 0;
	if (scr->pc >= java->interpreter_low && scr->pc < java->interpreter_high)
		return step_interpreted(scr, java);
	if (scr->pc == java->call_stub_return)
		return step_entry(scr, java);
	if (java->return_barrier && scr->pc == java->return_barrier)
		return step_barrier(scr, java);
	return step_compiled(scr, java);
}

#endif /* __TARGET_ARCH_x86 */

/* Where Java code lies in the target. */
static __always_inline void begin_java(struct scratch *scr)
{
	u32 slot = scr->slot;
	struct nl_java *java = bpf_map_lookup_elem(&javas, &slot);

	scr->java_low = java ? java->code_low : 0;
	scr->java_bytes = java ? java->code_high - java->code_low : 0;
}

/* Is this an address of Java code? */
static __always_inline int is_java(const struct scratch *scr, u64 pc)
{
	return pc - scr->java_low < scr->java_bytes;
}

#endif /* NATIVELEAK_HOTSPOT_BPF_H */
