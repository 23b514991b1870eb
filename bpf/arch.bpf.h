/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Everything that depends on the machine: registers, calling convention, call instructions, system call numbers. No
 * other file tests for a machine.
 *
 * Struct pt_regs is what a uprobe gets and how the kernel saves a task's user registers. It is defined here because
 * the headers of a build host lack those of the other machine. Sources: arch/x86/include/asm/ptrace.h, struct
 * user_pt_regs in arch/arm64/include/uapi/asm/ptrace.h.
 */
#ifndef NATIVELEAK_ARCH_BPF_H
#define NATIVELEAK_ARCH_BPF_H

#include "common.bpf.h"
#include "nativeleak.h"

/* The first three arguments of the probed function. */
struct arguments {
	u64 first, second, third;
};

#if defined(__TARGET_ARCH_x86)

struct pt_regs {
	unsigned long r15, r14, r13, r12, bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
	unsigned long orig_ax, ip, cs, flags, sp, ss;
};

#define REG_RESULT(regs) ((regs)->ax)
#define REG_IP(regs) ((regs)->ip)
#define REG_SP(regs) ((regs)->sp)
#define REG_FP(regs) ((regs)->bp)

/* A call pushes its return address. */
#define HAS_LINK_REGISTER 0
/* Stack pointer at the return, from that at the entry: the return has popped the return address. */
#define RETURN_SP(entry_sp) ((entry_sp) + 8)
/* Unwind tables and HotSpot frames are supported. */
#define HAS_UNWIND_TABLES 1
/* A task's kernel stack. Source: THREAD_SIZE in arch/x86/include/asm/page_64_types.h. */
#define KERNEL_STACK_BYTES 16384

/*
 * A register by its x86-64 instruction number (rax 0, rcx 1, ...). The mask maps that number to a word of pt_regs.
 * Nothing is ever passed in rsp (4). Read as memory, because the verifier refuses loads from a variable offset of the
 * context.
 */
static __always_inline u64 register_of(struct pt_regs *regs, u32 number)
{
	/* One nibble per register, rax in the lowest. */
	u64 word = 0x01236789ed405cbaULL >> (4 * number) & 0xf, value = 0;

	bpf_probe_read_kernel(&value, sizeof(value), (void *)regs + 8 * word);
	return value;
}

/* NL_COOKIE_REGISTER of arguments 1 to 3 in rdi, rsi, rdx: the code before the probe has not moved them. */
#define REGISTERS_IN_PLACE 0x267

static __always_inline struct arguments arguments_of(struct pt_regs *regs, u64 cookie)
{
	struct arguments args = { regs->di, regs->si, regs->dx };

	if (((cookie >> 48) & 0xfff) != REGISTERS_IN_PLACE) {
		args.first = register_of(regs, NL_COOKIE_REGISTER(cookie, 1));
		args.second = register_of(regs, NL_COOKIE_REGISTER(cookie, 2));
		args.third = register_of(regs, NL_COOKIE_REGISTER(cookie, 3));
	}
	return args;
}

/* Does the condition of a branch hold? By its number in the opcode: Intel SDM vol. 2, appendix B. */
static __always_inline int holds_condition(const struct pt_regs *regs, u32 condition)
{
	u64 flags = regs->flags;
	u32 carry = flags & 1, parity = flags >> 2 & 1, zero = flags >> 6 & 1;
	u32 less = (flags >> 7 ^ flags >> 11) & 1, holds;

	switch (condition >> 1) {
	case 0:
		holds = flags >> 11 & 1;
		break;
	case 1:
		holds = carry;
		break;
	case 2:
		holds = zero;
		break;
	case 3:
		holds = carry | zero;
		break;
	case 4:
		holds = flags >> 7 & 1;
		break;
	case 5:
		holds = parity;
		break;
	case 6:
		holds = less;
		break;
	default:
		holds = less | zero;
	}
	return holds != (condition & 1);
}

static __always_inline u64 link_register(const struct pt_regs *regs)
{
	(void)regs;
	return 0;
}

/* Returns an error: there is no such register. */
static __always_inline long read_link_register(const struct pt_regs *regs, u64 *value)
{
	(void)regs;
	(void)value;
	return 1;
}

/*
 * Is a return probe still waiting for the call whose return address is at `sp`? Until it returns, the kernel's return
 * trampoline replaces that address: the first byte of a page. Source: get_trampoline_vaddr in kernel/events/uprobes.c.
 * Yes if the word cannot be read.
 */
static __always_inline int is_return_pending(u64 sp)
{
	u64 word;

	if (!bpf_probe_read_user(&word, sizeof(word), (void *)sp))
		return word && !(word & 0xfff);
	return 1;
}

/*
 * Does a call instruction end at this address? call rel32 is e8 and four bytes. call through a register or memory is
 * ff /2; its length follows from the addressing mode in the ModRM byte (Intel SDM vol. 2, table 2-2). A REX prefix
 * comes before it and does not matter here.
 */
static __always_inline int follows_call(u64 address)
{
	u8 code[8];

	if (address < 8 || bpf_probe_read_user(code, sizeof(code), (void *)(address - 8)))
		return 0;
	if (code[3] == 0xe8)
		return 1;
	if (code[6] == 0xff && ((code[7] & 0xf8) == 0xd0 ||
				((code[7] & 0xf8) == 0x10 && code[7] != 0x14 && code[7] != 0x15)))
		return 1;
	if (code[5] == 0xff && (((code[6] & 0xf8) == 0x50 && code[6] != 0x54) || code[6] == 0x14))
		return 1;
	if (code[4] == 0xff && code[5] == 0x54)
		return 1;
	if (code[2] == 0xff && (((code[3] & 0xf8) == 0x90 && code[3] != 0x94) || code[3] == 0x15))
		return 1;
	return code[1] == 0xff && (code[2] == 0x94 || code[2] == 0x14);
}

/* System call numbers. Source: arch/x86/entry/syscalls/syscall_64.tbl. */
enum syscall_number {
	NR_MMAP = 9,
	NR_MPROTECT = 10,
	NR_MUNMAP = 11,
	NR_BRK = 12,
	NR_MREMAP = 25,
	NR_SHMGET = 29,
	NR_SHMAT = 30,
	NR_SHMDT = 67,
	NR_PKEY_MPROTECT = 329
};

/* The kernel's function of a system call. */
#define SYSCALL_FUNCTION(call) "__x64_sys_" #call

/* Arguments of a system call from the registers that pass them. */
static __always_inline void syscall_args_of(const struct pt_regs *regs, u64 *args)
{
	args[0] = regs->di;
	args[1] = regs->si;
	args[2] = regs->dx;
	args[3] = regs->r10;
	args[4] = regs->r8;
	args[5] = regs->r9;
}

#elif defined(__TARGET_ARCH_arm64)

struct pt_regs {
	unsigned long regs[31], sp, pc, pstate;
};

#define REG_RESULT(r) ((r)->regs[0])
#define REG_IP(r) ((r)->pc)
#define REG_SP(r) ((r)->sp)
#define REG_FP(r) ((r)->regs[29])

/* A call leaves its return address in x30. */
#define HAS_LINK_REGISTER 1
#define RETURN_SP(entry_sp) (entry_sp)
#define HAS_UNWIND_TABLES 0
/* 0: unknown. Kernels without bpf_task_pt_regs (NL_LACKS_REGISTERS) then give no user registers. */
#define KERNEL_STACK_BYTES 0

static __always_inline struct arguments arguments_of(struct pt_regs *regs, u64 cookie)
{
	struct arguments args = { regs->regs[0], regs->regs[1], regs->regs[2] };

	(void)cookie;
	return args;
}

/* Exits of functions are found in code for x86-64 only. */
static __always_inline u64 register_of(struct pt_regs *regs, u32 number)
{
	(void)regs;
	(void)number;
	return 0;
}

static __always_inline int holds_condition(const struct pt_regs *regs, u32 condition)
{
	(void)regs;
	(void)condition;
	return 0;
}

static __always_inline u64 link_register(const struct pt_regs *regs)
{
	return regs->regs[30];
}

/* The link register of registers in the kernel's memory. Returns an error where they cannot be read. */
static __always_inline long read_link_register(const struct pt_regs *regs, u64 *value)
{
	return bpf_probe_read_kernel(value, sizeof(*value), &regs->regs[30]);
}

/* Not known here: the return address is in a register or in a frame of unknown size. */
static __always_inline int is_return_pending(u64 sp)
{
	(void)sp;
	return 1;
}

/* Is the instruction before this address bl imm26 or blr Xn? Source: Arm ARM, C6.2.33 and C6.2.35. */
static __always_inline int follows_call(u64 address)
{
	u32 instruction;

	if (address < 4 || address & 3 ||
	    bpf_probe_read_user(&instruction, sizeof(instruction), (void *)(address - 4)))
		return 0;
	return (instruction & 0xfc000000) == 0x94000000 || (instruction & 0xfffffc1f) == 0xd63f0000;
}

/* Source: include/uapi/asm-generic/unistd.h. */
enum syscall_number {
	NR_MMAP = 222,
	NR_MPROTECT = 226,
	NR_MUNMAP = 215,
	NR_BRK = 214,
	NR_MREMAP = 216,
	NR_SHMGET = 194,
	NR_SHMAT = 196,
	NR_SHMDT = 197,
	NR_PKEY_MPROTECT = 288
};

#define SYSCALL_FUNCTION(call) "__arm64_sys_" #call

static __always_inline void syscall_args_of(const struct pt_regs *regs, u64 *args)
{
	for (int i = 0; i < 6; i++)
		args[i] = regs->regs[i];
}

#else
#error "unknown machine"
#endif

#endif /* NATIVELEAK_ARCH_BPF_H */
