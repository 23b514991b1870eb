/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Java frames of HotSpot. User space provides the layout, which it reads from the JVM's description of itself
 * (tracer/nativeleak/runtimes/hotspot/layout.py). Nothing here depends on a version.
 *
 * The segment map of the code cache leads from an address to its blob. It is in the target's memory and always
 * current. The frame size in the blob leads to the caller. Memory of the target is never trusted: each step must go
 * up, and each address is checked before it is taken for code.
 */
#ifndef NATIVELEAK_HOTSPOT_BPF_H
#define NATIVELEAK_HOTSPOT_BPF_H

#include "arch.bpf.h"
#include "common.bpf.h"
#include "hotspot_state.bpf.h"
#include "nativeleak.h"
#include "scratch.bpf.h"

/* slot -> layout of the target's JVM; code_high is 0 if it is no JVM. Written by user space. */
NL_MAP(javas, ARRAY, u32, struct nl_java, NL_MAX_TARGETS, 0);

/*
 * Hash of the address -> interpreted method. A new method replaces the old one with the same hash. There is no lock:
 * `check` is computed from all fields, slot, address and tick, so a mix of two entries is not taken for one.
 */
#define NL_METHODS 4096
struct hotspot_method {
	u64 check;
	u64 const_method;
	u64 cookie;
};

NL_MAP(methods, ARRAY, u32, struct hotspot_method, NL_METHODS, 0);

#if HAS_UNWIND_TABLES

/* Most hops through the segment map to the start of a blob; each goes up to 254 segments back. */
#define MAX_SEGMENT_HOPS 20
/* Most bytes of an interpreted frame, and of a stub's frame that has a frame pointer. */
#define MAX_INTERPRETED_BYTES (512 << 10)
#define MAX_STUB_BYTES (64 << 10)
/* Most words of a compiled frame: 512 KiB. */
#define MAX_FRAME_WORDS (64 << 10)
#define MAX_ANCHOR_BYTES (64 << 20)

/* Words of an interpreted frame that one read copies. */
#define NL_FRAME_WORDS 10

/*
 * Words of an interpreted frame, counted from fp - 8 words. Source: src/hotspot/cpu/x86/frame_x86.hpp, the same in
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

/* JavaThread of the running thread, from libjvm's thread-local variable; 0 if it has none. */
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

/* Anchor of the running thread: where Java code last called native code. 0 if unknown. */
static __always_inline u64 last_anchor(const struct nl_java *java)
{
	u64 thread = java_thread(java);

	return thread && java->thread_anchor ? thread + java->thread_anchor : 0;
}

/*
 * The walk has ended before the root: continue at the last Java frame, if the JVM has noted one above. A gap marks
 * the missing frames. Returns 0 if the walk goes on.
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
	at = scr->hotspot.has_anchor ? scr->hotspot.anchor_at : last_anchor(java);
	scr->hotspot.has_anchor = 1;
	scr->hotspot.anchor_at = 0;
	if (!at || bpf_probe_read_user(&sp, sizeof(sp), (void *)(at + java->anchor_sp)) ||
	    bpf_probe_read_user(&pc, sizeof(pc), (void *)(at + java->anchor_pc)) ||
	    bpf_probe_read_user(&fp, sizeof(fp), (void *)(at + java->anchor_fp)))
		return 1;
	if (!sp || sp < scr->sp || sp - scr->sp > MAX_ANCHOR_BYTES)
		return 1;
	/* The interpreter notes no pc: its return address is below the stack pointer. */
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

/* The blob (nmethod or stub) that holds an address of the code cache; 0 if there is none. */
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
 * Mix a name into a hash: its address, length, identity hash from the JVM, beginning and end. 0 if it cannot be read.
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
	/* clang knows this bound and would drop the check, but the verifier needs it. */
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
 * Cookie of an interpreted method, from the names of its class and itself. It tells the method from another that gets
 * its addresses once the class is unloaded. runtimes/hotspot/identity.py computes the same when it names the frame.
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
 * Was this checked in the current jiffy (1 to 10 ms)? Then it is taken to be still valid. It was on a stack at that
 * time. For other code to be there now, the JVM must have found it unused, freed it and created the other within the
 * jiffy.
 */
static __always_inline int is_of_now(u32 tick)
{
	return tick == (u32)bpf_jiffies64();
}

/* `check` of an entry in `methods`. */
static __always_inline u64 check_method(const struct scratch *scr, u64 address, u32 tick,
					u64 const_method, u64 cookie)
{
	return mix(mix(mix(address ^ (u64)scr->slot << 56, (u64)tick << 32), const_method), cookie);
}

_Static_assert(NL_METHODS == 1 << (64 - 52), "methods");

/* Second word of an interpreted frame: NL_PLACE_* and the cookie. */
static __always_inline u64 interpreted_place(struct scratch *scr, const struct nl_java *java,
					     u64 address, u64 bytecode)
{
	u32 index = address * NL_HASH_FACTOR >> 52, tick = (u32)bpf_jiffies64();
	struct hotspot_method *method = bpf_map_lookup_elem(&methods, &index);
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

/* Native code has called Java here: the call wrapper has the anchor of the Java code below. */
static __always_inline int step_entry(struct scratch *scr, const struct nl_java *java)
{
	if (scr->fp & 7 || scr->fp < scr->sp || scr->fp - scr->sp > MAX_STUB_BYTES)
		return end_walk(scr, NL_END_JAVA_FRAME);
	if (read_two(scr, scr->fp + java->call_wrapper_offset))
		return end_walk(scr, NL_END_READ);
	scr->hotspot.has_anchor = 1;
	scr->hotspot.anchor_at = scr->two[0] + java->call_wrapper_anchor;
	if (read_two(scr, scr->fp))
		return end_walk(scr, NL_END_READ);
	push_java(scr, NL_FOUND_ENTRY, scr->pc, 0);
	scr->sp = scr->fp + 16;
	scr->fp = scr->two[0];
	scr->pc = scr->two[1];
	return 0;
}

/* The other frames of a virtual thread are in the heap, where they are not followed: continue with its carrier. */
static __always_inline int step_barrier(struct scratch *scr, const struct nl_java *java)
{
	u64 thread = java_thread(java), entry, saved[2];

	push_java(scr, NL_FOUND_BARRIER, scr->pc, 0);
	/* JDK 21 gives the size of the entry only after the first virtual thread has started. */
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
 * Some leaf calls from compiled code push registers first, so the frame is larger than its blob says. Only the code
 * cache calls compiled code, so the first word that points there is the return address.
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

/* Cache entry of the code at an address. */
static __always_inline struct hotspot_code *code_entry(struct scratch *scr, u64 pc)
{
	u64 at = pc * NL_HASH_FACTOR >> 32;

	/* Keeps the mask, which the verifier needs and clang may drop. */
	asm volatile("" : "+r"(at));
	return &scr->hotspot_codes[at & (NL_HOTSPOT_CODES - 1)];
}

/* Is this an address that frames of a deoptimized nmethod return to? */
static __always_inline int is_deopt_handler(const struct nl_java *java, u64 blob, u64 pc)
{
	u64 addresses[2];
	s32 offsets[2];
	void *at = (void *)(blob + java->deopt_handler);
	/* The handler for method handle calls, if there is one, is adjacent: one read gets both. */
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

/* Read the code at scr->pc from the target into its cache entry. Returns 0 if it was found. */
__noinline int read_code(u32 index)
{
	struct scratch *scr = bpf_map_lookup_elem(&scratch, &index);
	struct nl_java *java;
	struct hotspot_code *code;
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
	 * A frame whose code was invalidated returns to a deopt handler, which does not tell the inlined methods. The
	 * original return address is kept in the frame.
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
 * Is the cached code still the one at scr->pc? The same compile id means the same code. This check reads the target's
 * memory once; a full look-up reads it five times or more.
 */
static __always_inline int is_known_code(struct scratch *scr, const struct nl_java *java,
					 struct hotspot_code *code)
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
	struct hotspot_code *code = code_entry(scr, scr->pc);
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
 * Fast path of step_compiled, for ordinary frames in the cache: nearly all Java frames. Returns 0 when the walk goes
 * on, 1 when nothing was done and step_java must be called.
 */
static __always_inline int step_known_code(struct scratch *scr)
{
	struct hotspot_code *code = code_entry(scr, scr->pc);
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

/* Go one Java frame up; pc is in the code cache. Returns 1 when the walk has ended. */
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

#endif /* HAS_UNWIND_TABLES */

/* Begin a walk: where does the target's JVM have its code? */
static __always_inline void begin_hotspot(struct scratch *scr)
{
	u32 slot = scr->slot;
	struct nl_java *java = bpf_map_lookup_elem(&javas, &slot);

	scr->managed_low = java ? java->code_low : 0;
	scr->managed_bytes = java ? java->code_high - java->code_low : 0;
}

#endif /* NATIVELEAK_HOTSPOT_BPF_H */
