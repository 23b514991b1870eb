/* SPDX-License-Identifier: GPL-2.0 */
/* Is it a return address? */
#ifndef NATIVELEAK_CALLS_BPF_H
#define NATIVELEAK_CALLS_BPF_H

#include "common.bpf.h"

/* How far up a guessed frame pointer may lead. Thread stacks are 8 MiB by default. */
#define MAX_GUESS_BYTES (1 << 20)

/* Does a call instruction end at this address? */
static __always_inline int follows_call(u64 address)
{
#if defined(__TARGET_ARCH_x86)
	u8 code[8];

	if (address < 8 || bpf_probe_read_user(code, sizeof(code), (void *)(address - 8)))
		return 0;
	/*
	 * call rel32 is e8 and four bytes. call through a register or memory is ff /2: its length follows
	 * from the addressing mode in the ModRM byte (Intel SDM vol. 2, table 2-2). A REX prefix stands
	 * before and changes nothing here.
	 */
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
#else
	u32 instruction;

	if (address < 4 || address & 3 ||
	    bpf_probe_read_user(&instruction, sizeof(instruction), (void *)(address - 4)))
		return 0;
	/* bl imm26, blr Xn. Source: Arm ARM, C6.2.33 and C6.2.35. */
	return (instruction & 0xfc000000) == 0x94000000 || (instruction & 0xfffffc1f) == 0xd63f0000;
#endif
}

#endif /* NATIVELEAK_CALLS_BPF_H */
