// SPDX-License-Identifier: Apache-2.0
/*
 * A 32-bit process: mmap by both of its system calls, munmap, brk. No library, for few machines have one of 32 bits.
 *
 * It speaks the protocol as far as it can: `READY 0`, then a line on stdin, its work, `done`, and the end of stdin.
 * Then it holds 5 pages of mmap2 (192), 6 of the old mmap (90), and 3 of brk (45).
 * Source of the numbers: arch/x86/entry/syscalls/syscall_32.tbl.
 */

#define PAGE 4096L

/* The old mmap takes its arguments in memory. Source: struct mmap_arg_struct in mm/mmap.c. */
struct arguments {
	long address, length, prot, flags, file, offset;
};

static long call(long number, long a, long b, long c, long d, long e)
{
	long result;

	/* The sixth argument, in ebp, is 0 for all of them. */
	__asm__ volatile("push %%ebp\n\txor %%ebp, %%ebp\n\tint $0x80\n\tpop %%ebp"
			 : "=a"(result)
			 : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e)
			 : "memory");
	return result;
}

static void say(const char *line, long n)
{
	call(4, 1, (long)line, n, 0, 0);
}

static long hear(void)
{
	char line[64];

	return call(3, 0, (long)line, sizeof(line), 0, 0);
}

void _start(void)
{
	struct arguments old = { 0, 6 * PAGE, 3, 0x22, -1, 0 };
	long start;

	say("READY 0\n", 8);
	hear();
	start = call(192, 0, 7 * PAGE, 3, 0x22, -1);
	call(91, start, 2 * PAGE, 0, 0, 0);
	call(90, (long)&old, 0, 0, 0, 0);
	start = call(45, 0, 0, 0, 0, 0);
	call(45, start + 3 * PAGE, 0, 0, 0, 0);
	say("done\n", 5);
	while (hear() > 0)
		;
	call(1, 0, 0, 0, 0, 0);
}
