// SPDX-License-Identifier: GPL-2.0
/*
 * Allocator probes. The live set and the totals of each site are kept here, so that user space reads
 * what the number of sites costs, not what the number of allocations costs.
 *
 * A block is taken out of the live set at the entry of free and realloc, before another thread can be
 * given its address, and put in at the return of the call that made it. Calls that an allocator makes to
 * itself or to another allocator are told by the stack pointer: while a call is in flight, an entry with
 * a deeper stack is a part of it, and only the return with the matching stack pointer is its own.
 *
 * What sampling leaves out is decided at the entry. Then the return is declined where that is safe: a call of which
 * no return is awaited cannot be known by the calls inside of it, so these would be taken for calls of the program. The
 * functions that allocate by another one (posix_memalign, realloc(0), operator new, calloc on musl) are told
 * by what they do: the first calls of each are followed to their end, as are all that are kept and one in 64 of the
 * others; a function inside of which another was ever called is followed always. A call followed but not sampled is in
 * flight like one outside of the size limits: no stack is walked for it and nothing recorded.
 */
#include "common.bpf.h"
#include "stack.bpf.h"

static __always_inline u64 block_key(u64 address, u32 slot)
{
	return address | ((u64)slot << NL_SLOT_SHIFT);
}

/* Worked out at the first block, and again each time that user space has written the target. */
static __noinline u64 start_tick(struct nl_target *target)
{
	u64 start = bpf_jiffies64() - (bpf_ktime_get_ns() - target->start_ns) / tick_ns;

	target->start_tick = start;
	return start;
}

/* By the kernel's tick, which is at hand: to ask for the time takes a tenth of what a block costs. */
static __always_inline u32 now_born(struct nl_target *target)
{
	u64 start;

	if (!tick_ns)
		return (bpf_ktime_get_ns() - target->start_ns) >> NL_BORN_SHIFT;
	start = target->start_tick;
	if (!start)
		start = start_tick(target);
	return (bpf_jiffies64() - start) * tick_ns >> NL_BORN_SHIFT;
}

static __always_inline struct nl_slice *slice_of(struct nl_site *site, u32 born, u32 generation)
{
	u64 index = (u64)born >> ((NL_SLICE_SHIFT + generation) & 31);

	if (index >= NL_SLICES)
		index = NL_SLICES - 1;
	return &site->slices[generation & 1][index];
}

static __always_inline void book_allocated(struct nl_site *site, const struct nl_live *block,
					   u32 generation)
{
	struct nl_slice *slice = slice_of(site, block->born, generation);

	__sync_fetch_and_add(&site->allocated_bytes, block->bytes);
	__sync_fetch_and_add(&site->allocated_count, block->count);
	__sync_fetch_and_add(&slice->bytes, block->bytes);
	__sync_fetch_and_add(&slice->count, block->count);
}

/* Undo book_allocated: the block found no room in the live set. */
static __always_inline void unbook_allocated(struct nl_site *site, const struct nl_live *block,
					     u32 generation)
{
	struct nl_slice *slice = slice_of(site, block->born, generation);

	__sync_fetch_and_add(&site->allocated_bytes, -block->bytes);
	__sync_fetch_and_add(&site->allocated_count, -(u64)block->count);
	__sync_fetch_and_add(&slice->bytes, -block->bytes);
	__sync_fetch_and_add(&slice->count, -(u64)block->count);
}

/* engines/bpf/site_store.py reckons the same. */
static __always_inline u32 near_site_index(const struct nl_site_key *key)
{
	u64 word = key->stack ^ (u64)key->thread << 32 ^ key->slot;

	return 1 + (word * NL_HASH_FACTOR >> (64 - NL_NEAR_SITE_BITS));
}

/* The totals of a site, 0 where it is not known yet. */
static __always_inline struct nl_site *find_site(const struct nl_site_key *key)
{
	u32 index = near_site_index(key);
	struct nl_site_key *near = bpf_map_lookup_elem(&near_site_keys, &index);

	if (near && near->stack == key->stack && near->thread == key->thread &&
	    near->slot == key->slot && key->stack)
		return bpf_map_lookup_elem(&near_sites, &index);
	return bpf_map_lookup_elem(&sites, key);
}

/* Room for a new site of the running thread, all zero; 0 where there is none. */
static __always_inline struct nl_site *new_site(const struct nl_site_key *key)
{
	u32 index = near_site_index(key), zero = 0;
	u64 *state = bpf_map_lookup_elem(&near_site_states, &index);
	struct nl_site_key *near = bpf_map_lookup_elem(&near_site_keys, &index);
	struct nl_site *empty;

	if (state && near && !*(volatile u64 *)state && !compare_exchange(state, 0, 1)) {
		near->thread = key->thread;
		near->slot = key->slot;
		exchange(&near->stack, key->stack);
		return bpf_map_lookup_elem(&near_sites, &index);
	}
	empty = bpf_map_lookup_elem(&empty_site, &zero);
	if (!empty || bpf_map_update_elem(&sites, key, empty, BPF_NOEXIST))
		return 0;
	return bpf_map_lookup_elem(&sites, key);
}

static __always_inline void book_freed(const struct nl_live *block, u32 slot, u32 generation)
{
	struct nl_site_key key = { .stack = block->stack, .thread = block->thread, .slot = slot };
	struct nl_site *site = find_site(&key);
	struct nl_slice *slice;

	if (!site)
		return;
	slice = slice_of(site, block->born, generation);
	__sync_fetch_and_add(&site->freed_bytes, block->bytes);
	__sync_fetch_and_add(&site->freed_count, block->count);
	__sync_fetch_and_add(&slice->bytes, -block->bytes);
	__sync_fetch_and_add(&slice->count, -(u64)block->count);
}

static __always_inline u32 near_index(u64 key)
{
	return 1 + (key * NL_HASH_FACTOR >> (64 - NL_NEAR_BITS));
}

/* Are keys of this place in `live`? Who puts one there counts first, so that who frees the block sees it. */
static __always_inline int has_others(u32 index)
{
	u32 *others = bpf_map_lookup_elem(&near_others, &index);

	return !others || *(volatile u32 *)others;
}

static __always_inline void count_others(u32 index, u32 n)
{
	u32 *others = bpf_map_lookup_elem(&near_others, &index);

	if (others)
		__sync_fetch_and_add(others, n);
}

/* Take a block out of the live set. Of two threads that free the same block one gets it. */
static __always_inline int take_block_here(u64 address, u32 slot, struct nl_live *block)
{
	u64 key = block_key(address, slot), *near;
	u32 index = near_index(key);
	struct nl_live *found;

	near = bpf_map_lookup_elem(&near_keys, &index);
	if (near && *(volatile u64 *)near == key) {
		found = bpf_map_lookup_elem(&near_blocks, &index);
		if (!found)
			return 0;
		*block = *found;
		return compare_exchange(near, key, 0) == key;
	}
	if (!has_others(index))
		return 0;
	found = bpf_map_lookup_elem(&live, &key);
	if (!found)
		return 0;
	*block = *found;
	if (bpf_map_delete_elem(&live, &key))
		return 0;
	count_others(index, -1);
	return 1;
}

/* The same where a call does not matter. */
static __noinline int take_block(u64 address, u32 slot, struct nl_live *block)
{
	return take_block_here(address, slot, block);
}

/* Put a block into the live set. Returns -EEXIST where its address is in there, another error where no room is. */
static __always_inline int put_block_here(u64 address, u32 slot, struct nl_live *block)
{
	u64 key = block_key(address, slot), *near, before;
	u32 index = near_index(key);
	struct nl_live *place;
	int error; /* see store_stack */

	near = bpf_map_lookup_elem(&near_keys, &index);
	place = bpf_map_lookup_elem(&near_blocks, &index);
	if (near && place) {
		before = compare_exchange(near, 0, NL_NEAR_BUSY);
		if (!before) {
			if (has_others(index) && bpf_map_lookup_elem(&live, &key)) {
				exchange(near, 0);
				return -EEXIST;
			}
			*place = *block;
			exchange(near, key);
			return 0;
		}
		if (before == key)
			return -EEXIST;
	}
	count_others(index, 1);
	error = bpf_map_update_elem(&live, &key, block, BPF_NOEXIST);
	if (error)
		count_others(index, -1);
	return error;
}

static __noinline int put_block(u64 address, u32 slot, struct nl_live *block)
{
	return put_block_here(address, slot, block);
}

/* A site that is not known yet, with its stack; that for "all others" when there is no room. */
static __noinline struct nl_site *make_site(struct nl_site_key *key, struct scratch *scr)
{
	struct nl_site *site = new_site(key);

	if (site) {
		site->check = scr->check;
		store_stack(scr, key->stack);
		return site;
	}
	count(NL_SITES_FULL);
	key->stack = 0;
	key->thread = 0;
	return bpf_map_lookup_elem(&sites, key);
}

/* The totals of (thread, stack). */
static __always_inline struct nl_site *site_of(struct nl_site_key *key, struct scratch *scr)
{
	struct nl_site *site = find_site(key);

	if (!site)
		return make_site(key, scr);
	if (site->check != scr->check)
		count(NL_STACK_COLLISIONS);
	return site;
}

/*
 * The address is in the live set already: its free was not seen, made by a child after vfork, or by a function we do
 * not know. Returns an error where the new block finds no room.
 */
static __noinline int replace_block(struct nl_live *block, u64 address, u32 slot, u32 generation)
{
	struct nl_live old;

	count(NL_OVERWRITTEN);
	if (take_block(address, slot, &old))
		book_freed(&old, slot, generation);
	return put_block(address, slot, block);
}

/* Book a block on its site and remember it. `ctx` holds the registers at the return of the allocator. */
static __always_inline int record_block(struct pt_regs *ctx, struct nl_thread *thread, u64 address)
{
	struct nl_site_key key = { .thread = thread->uid, .slot = thread->slot };
	struct nl_live block = {
		.bytes = thread->weight.bytes,
		.count = thread->weight.count,
		.kept = thread->weight.kept,
	};
	struct nl_target *target = active_target(thread->slot);
	struct scratch *scr;
	struct nl_site *site;
	u32 generation;
	int error;

	if (!target)
		return 0;
	generation = target->generation;
	block.born = now_born(target);

	scr = take_scratch();
	if (!scr) {
		/* Nothing is lost but the stack: the block goes to the site for all others. */
		count(NL_NO_SCRATCH);
		key.thread = 0;
		site = bpf_map_lookup_elem(&sites, &key);
	} else {
		begin_stack(scr, target, thread->slot);
		push_frame(scr, thread->ip, 0);
		scr->pc = REG_IP(ctx);
		scr->sp = REG_SP(ctx);
		scr->fp = REG_FP(ctx);
		walk(scr, target);
		key.stack = stack_key(scr);
		site = site_of(&key, scr);
		release_scratch(scr);
	}
	if (!site)
		goto lost;
	block.stack = key.stack;
	block.thread = key.thread;

	/* Booked before it can be found, so that no one sees more freed than allocated. */
	book_allocated(site, &block, generation);
	error = put_block_here(address, thread->slot, &block);
	if (error == -EEXIST)
		error = replace_block(&block, address, thread->slot, generation);
	if (!error)
		return 0;
	unbook_allocated(site, &block, generation);
lost:
	count_n(NL_LOST_ALLOCATIONS, block.count);
	count_n(NL_LOST_BYTES, block.bytes);
	return 0;
}

/* Put the block that a realloc held back. Its room may have been taken meanwhile: then it is lost after all. */
static __always_inline void put_back(struct nl_thread *thread)
{
	struct nl_site_key site_key = {
		.stack = thread->old.stack,
		.thread = thread->old.thread,
		.slot = thread->slot,
	};
	struct nl_target *target;
	struct nl_site *site;
	u32 slot = thread->slot;

	thread->held = 0;
	if (!put_block(thread->pointer, slot, &thread->old))
		return;
	count_n(NL_LOST_ALLOCATIONS, thread->old.count);
	count_n(NL_LOST_BYTES, thread->old.bytes);
	site = find_site(&site_key);
	target = bpf_map_lookup_elem(&targets, &slot);
	if (site && target)
		unbook_allocated(site, &thread->old, target->generation);
}

/* Forget a call in flight that will not return; a block that it held goes back. */
static __always_inline void abandon_call(struct nl_thread *thread)
{
	count(NL_ABANDONED);
	if (thread->held)
		put_back(thread);
	thread->call = NL_CALL_NONE;
}

/* Is this entry a part of the call in flight? Also when it was reached by a jump, at the same stack pointer. */
static __always_inline int is_nested(struct pt_regs *ctx, const struct nl_thread *thread, u64 sp)
{
#if defined(__TARGET_ARCH_arm64)
	/* After a jump the return address is not the one of the call in flight but the kernel's trampoline. */
	if (sp == thread->sp)
		return REG_LR(ctx) != thread->return_address;
#else
	(void)ctx;
#endif
	return is_inside_call(thread, sp);
}

struct arguments {
	u64 first, second, third;
};

static __always_inline struct arguments arguments_of(struct pt_regs *ctx, u64 cookie)
{
	struct arguments args = { REG_ARG1(ctx), REG_ARG2(ctx), REG_ARG3(ctx) };

#if defined(__TARGET_ARCH_x86)
	if (((cookie >> 48) & 0xfff) != REGISTERS_IN_PLACE) {
		args.first = register_of(ctx, NL_COOKIE_REGISTER(cookie, 1));
		args.second = register_of(ctx, NL_COOKIE_REGISTER(cookie, 2));
		args.third = register_of(ctx, NL_COOKIE_REGISTER(cookie, 3));
	}
#else
	(void)cookie;
#endif
	return args;
}

/* No address space has room for this: the call fails. */
#define IMPOSSIBLE_SHIFT 48

static __always_inline u64 product(u64 n, u64 size)
{
	u64 most = size ? ~0ULL / size : ~0ULL;

	/* clang would make a 128-bit product of it, which BPF does not have. */
	asm volatile("" : "+r"(most));
	/* An overflow may leave 0, which realloc takes for "free it": the call fails instead. */
	return n > most ? ~0ULL : n * size;
}

static __always_inline u64 requested_size(const struct arguments *args, u32 call)
{
	switch (call) {
	case NL_CALL_CALLOC:
		return product(args->first, args->second);
	case NL_CALL_REALLOCARRAY:
		return product(args->second, args->third);
	case NL_CALL_REALLOC:
	case NL_CALL_ALIGNED_ALLOC:
		return args->second;
	case NL_CALL_POSIX_MEMALIGN:
		return args->third;
	default:
		return args->first;
	}
}

static __always_inline int outside_limits(const struct nl_target *target, u64 size)
{
	return size < target->min_size || (target->max_size && size > target->max_size);
}

/* A free, or the old block of a realloc, that is not in the live set. */
static __always_inline void count_unmatched(const struct nl_target *target)
{
	count(target->flags & NL_TARGET_PARTIAL ? NL_UNSAMPLED_FREES : NL_UNMATCHED_FREES);
}

/* The next sample point has to be drawn: is one in this block already? What the block then stands for. */
static __noinline int draw_sample(struct nl_thread *thread, u64 rate, u64 size)
{
	u64 counted = size ? size : 1;

	/* As is known, but not to the verifier. */
	if (!rate || rate > NL_MAX_RATE || size >= NL_CERTAIN_RATES * rate)
		return 0;
	/* The distance has no memory: with another rate it may be drawn anew. */
	if (thread->sample_rate != rate) {
		thread->sample_rate = rate;
		thread->until_sample = nl_draw(bpf_get_prandom_u32(), rate);
	}
	if (thread->until_sample >= counted) {
		thread->until_sample -= counted;
		return 0;
	}
	thread->until_sample = nl_draw(bpf_get_prandom_u32(), rate);
	nl_weigh(size, rate, bpf_get_prandom_u32(), &thread->weight);
	return 1;
}

/* Whether a sample point falls into this block; what the block then stands for. */
static __always_inline int is_sampled(struct nl_thread *thread, struct nl_target *target, u64 size)
{
	u64 rate = target->sample_rate, counted = size ? size : 1;

	if (size >= target->sample_above || !rate || rate > NL_MAX_RATE ||
	    size >= NL_CERTAIN_RATES * rate) {
		thread->weight.bytes = size;
		thread->weight.count = 1;
		thread->weight.kept = 0;
		return 1;
	}
	if (thread->sample_rate != rate || thread->until_sample < counted)
		return draw_sample(thread, rate, size);
	thread->until_sample -= counted;
	return 0;
}

/* Whether the return of a call that is not sampled can be declined; see the top of this file. */
static __always_inline int is_declined(struct nl_thread *thread, const struct nl_target *target)
{
	struct nl_function *function;
	u32 index = thread->function;

	/* Inside of a call that is not in flight only its stack tells a system call of the allocator from the program's. */
	if (!index || target->unwind != NL_UNWIND_TABLES)
		return 0;
	function = bpf_map_lookup_elem(&functions, &index);
	if (!function || function->nests)
		return 0;
	if (function->calls < NL_LEAF_CALLS) {
		function->calls++;
		return 0;
	}
	/* As good as a random number, and at hand: blocks are multiples of 16 as often as not. */
	return (thread->until_sample >> 4 & (NL_LEAF_CALLS - 1)) != 0;
}

/* The function of the call in flight calls other allocator functions. */
static __always_inline void learn_nesting(const struct nl_thread *thread)
{
	u32 index = thread->function;
	struct nl_function *function = index ? bpf_map_lookup_elem(&functions, &index) : 0;

	if (function && !function->nests)
		function->nests = 1;
}

/*
 * Returns whether the return of this call is wanted. `ids` are those of the running thread, `thread` is what is known of
 * it if that is at hand, else 0.
 */
static __always_inline int enter_call(struct pt_regs *ctx, u64 cookie, u64 ids,
				      struct nl_thread *thread)
{
	u32 slot = NL_COOKIE_SLOT(cookie), call = NL_COOKIE_CALL(cookie);
	struct nl_target *target = active_target(slot);
	struct arguments args;
	/* As they were at the first instruction. */
	u64 sp = REG_SP(ctx) + NL_COOKIE_PUSHED(cookie), size;

	if (!target) {
		if (is_counting(slot)) {
			count(NL_CALLS);
			count(NL_DECLINED);
		}
		return 0;
	}
	/* A forked child runs the same probes: it is another process. */
	if (target->tgid != ids >> 32)
		return 0;
	count_roughly(NL_CALLS);
	args = arguments_of(ctx, cookie);
	size = requested_size(&args, call);
	if (call == NL_CALL_NEW && size >> IMPOSSIBLE_SHIFT) {
		/*
		 * It will throw, and an exception that meets the return address which the kernel has put in the
		 * place of the caller's ends the process.
		 */
		count(NL_FAILED);
		count(NL_DECLINED);
		return 0;
	}
	if (!thread)
		thread = thread_of(ids, slot);
	if (!thread) {
		count(NL_DECLINED);
		if (size >> IMPOSSIBLE_SHIFT)
			return 0;
		count(NL_LOST_ALLOCATIONS);
		count_n(NL_LOST_BYTES, size);
		return 0;
	}
	if (thread->call != NL_CALL_NONE) {
		if (is_nested(ctx, thread, sp)) {
			count(NL_NESTED);
			count(NL_DECLINED);
			learn_nesting(thread);
			return 0;
		}
		abandon_call(thread);
	}
	thread->probed = REG_IP(ctx);
	thread->function = NL_COOKIE_FUNCTION(cookie);
	if (thread->function)
		thread->function += slot * NL_FUNCTIONS;
	/* Skipped, but still in flight: what it calls inside is part of it. */
	thread->skipped = outside_limits(target, size);
	if (thread->skipped) {
		count(NL_SKIPPED);
	} else if (target->flags & NL_TARGET_FREES || !is_sampled(thread, target, size)) {
		count(NL_UNSAMPLED);
		if (is_declined(thread, target)) {
			count(NL_DECLINED);
			return 0;
		}
		thread->skipped = 1;
	}
	thread->held = 0;
	if (call == NL_CALL_REALLOC || call == NL_CALL_REALLOCARRAY) {
		thread->pointer = args.first;
		if (thread->pointer) {
			thread->held = take_block(thread->pointer, slot, &thread->old);
			if (!thread->held)
				count_unmatched(target);
		}
	} else if (call == NL_CALL_POSIX_MEMALIGN) {
		thread->pointer = args.first;
	}
	thread->size = size;
	thread->sp = sp;
	thread->ip = REG_IP(ctx) - NL_COOKIE_OFFSET(cookie);
#if defined(__TARGET_ARCH_arm64)
	thread->return_address = REG_LR(ctx);
#endif
	thread->call = call;
	return 1;
}

static __always_inline void leave_realloc(struct nl_thread *thread, struct nl_target *target,
					  u64 result)
{
	if (!thread->held)
		return;
	/* Failed: the old block is still there. realloc(p, 0) returns NULL and has freed it. */
	if (!result && thread->size) {
		put_back(thread);
	} else {
		thread->held = 0;
		book_freed(&thread->old, thread->slot, target->generation);
	}
}

static __always_inline int leave_call(struct pt_regs *ctx, u64 ids)
{
	u32 tid = (u32)ids, call;
	struct nl_thread *thread = find_thread(tid);
	struct nl_target *target;
	u64 result;

	if (!thread || thread->call == NL_CALL_NONE || REG_SP(ctx) != RETURN_SP(thread->sp))
		return 0;
	call = thread->call;
	thread->call = NL_CALL_NONE;
	target = active_target(thread->slot);
	if (!target)
		return 0;
	result = REG_RESULT(ctx);
	if (call == NL_CALL_POSIX_MEMALIGN) {
		if ((s32)result) {
			result = 0;
		} else if (bpf_probe_read_user(&result, sizeof(result), (void *)thread->pointer)) {
			count(NL_BAD_POINTER);
			return 0;
		}
	}
	leave_realloc(thread, target, result);
	if (!result) {
		count(NL_FAILED);
		return 0;
	}
	if (thread->skipped)
		return 0;
	return record_block(ctx, thread, result);
}

/* What the loader has given the probe that runs to tell it from others. */
static __always_inline u64 cookie_of(struct pt_regs *ctx)
{
	u32 zero = 0;
	u64 *cookie;

	if (!(kernel_lacks & NL_LACKS_COOKIES))
		return bpf_get_attach_cookie(ctx);
	cookie = bpf_map_lookup_elem(&cookies, &zero);
	return cookie ? *cookie : 0;
}

SEC("uprobe")
int on_alloc_entry(struct pt_regs *ctx)
{
	enter_call(ctx, cookie_of(ctx), current_ids(), 0);
	return 0;
}

SEC("uprobe")
int on_alloc_return(struct pt_regs *ctx)
{
	return leave_call(ctx, current_ids());
}

/*
 * Entry and return in one. At the entry the instruction pointer is the probed address; at the return it is where the
 * caller goes on. Mostly a thread comes through the same probe as before: then the kernel need not be asked, and each
 * question to it costs as much as all that is done without. Returning 1 at the entry declines the return.
 */
SEC("uprobe")
int on_alloc_session(struct pt_regs *ctx)
{
	u64 ids = current_ids();
	u32 tid = (u32)ids;
	struct nl_thread *thread = near_place(tid);

	if (!thread || thread->tid != tid || thread->probed != REG_IP(ctx)) {
		if (REG_IP(ctx) != bpf_get_func_ip(ctx))
			return leave_call(ctx, ids);
		thread = 0;
	}
	return !enter_call(ctx, bpf_get_attach_cookie(ctx), ids, thread);
}

SEC("uprobe")
int on_free(struct pt_regs *ctx)
{
	u64 cookie = cookie_of(ctx), address = arguments_of(ctx, cookie).first;
	u64 ids = current_ids();
	u32 slot = NL_COOKIE_SLOT(cookie), tid = (u32)ids;
	struct nl_target *target = active_target(slot);
	struct nl_thread *thread;
	struct nl_live block;

	if (!target) {
		if (is_counting(slot))
			count(NL_FREES);
		return 0;
	}
	if (target->tgid != ids >> 32)
		return 0;
	count_roughly(NL_FREES);
	if (!address) {
		count(NL_FREE_NULL);
		return 0;
	}
	if (take_block_here(address, slot, &block)) {
		book_freed(&block, slot, target->generation);
		if (NL_COOKIE_CALL(cookie) == NL_CALL_DELETE) {
			thread = find_thread(tid);
			if (thread)
				thread->deleted = address;
		}
		return 0;
	}
	thread = find_thread(tid);
	/* A realloc in flight may free its old block through free: that one is held, not unknown. */
	if (thread && (is_inside_call(thread, REG_SP(ctx) + NL_COOKIE_PUSHED(cookie)) ||
		       thread->deleted == address)) {
		thread->deleted = 0;
		count(NL_NESTED);
		return 0;
	}
	count_unmatched(target);
	return 0;
}
