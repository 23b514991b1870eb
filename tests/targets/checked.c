// SPDX-License-Identifier: Apache-2.0
/*
 * Allocates and checks its blocks from READY to the end of stdin, which ends it with status 0.
 *
 * `steps`: answered with `STEPS n`
 * `remap`: puts an anonymous copy in the place of libc's text, as programs do that move their code to huge pages;
 *          answered with `REMAPPED`
 *
 * usage: checked [plain|paced|dispatch|filtered|patched]
 *
 * paced:    leaves the processor to others for 1 ms after each 20 steps
 * dispatch: by syscall user dispatch its own handler of SIGSYS makes all its system calls
 * filtered: a seccomp filter answers system calls that are newer than itself with ENOSYS, as container runtimes do
 * patched:  the first bytes of calloc jump to code of its own, as detours do
 */
#include "checked.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>

#ifndef PR_SET_SYSCALL_USER_DISPATCH
#define PR_SET_SYSCALL_USER_DISPATCH 59
#endif

/* The first system calls that such a filter does not know, and the first that it knows again. */
#define FIRST_UNKNOWN 335
#define FIRST_KNOWN 424

static struct checked table = { .random = 31 };
static volatile unsigned char selector;

static long call(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static void on_sigsys(int number, siginfo_t *info, void *context)
{
	greg_t *r = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)number;
	selector = 0;
	r[REG_RAX] = call(info->si_syscall, r[REG_RDI], r[REG_RSI], r[REG_RDX], r[REG_R10],
			  r[REG_R8], r[REG_R9]);
	selector = 1;
}

/* All calls go to the handler, but for the one that returns from it. */
static void dispatch(void)
{
	struct sigaction action = { .sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO };
	struct {
		void *handler;
		unsigned long flags;
		void *restorer;
		unsigned long mask;
	} kernels;

	TRUTH_CHECK(!sigaction(SIGSYS, &action, NULL));
	TRUTH_CHECK(!syscall(SYS_rt_sigaction, SIGSYS, NULL, &kernels, 8));
	TRUTH_CHECK(!prctl(PR_SET_SYSCALL_USER_DISPATCH, 1, (unsigned long)kernels.restorer, 64,
			   &selector));
	selector = 1;
}

static void filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, FIRST_KNOWN, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, FIRST_UNKNOWN, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(code[0]), code };

	TRUTH_CHECK(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	TRUTH_CHECK(!syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program));
}

/* A calloc of its own, reached by a jump from the C library's. */
static void *own_calloc(size_t n, size_t bytes)
{
	void *block = malloc(n * bytes);

	if (block)
		memset(block, 0, n * bytes);
	return block;
}

static void patch(void)
{
	unsigned char jump[12] = { 0x48, 0xb8, [10] = 0xff, [11] = 0xe0 };
	void *to = (void *)own_calloc, *at = (void *)calloc;
	int memory = open("/proc/self/mem", O_RDWR);

	memcpy(jump + 2, &to, sizeof(to));
	TRUTH_CHECK(memory >= 0 &&
		    pwrite(memory, jump, sizeof(jump), (off_t)(uintptr_t)at) == sizeof(jump));
	TRUTH_CHECK(!close(memory));
}

static void remap(void)
{
	char line[512], path[256], *copy;
	unsigned long start = 0, end = 0, offset = 0;
	FILE *maps = fopen("/proc/self/maps", "r");
	int file;

	TRUTH_CHECK(maps);
	while (fgets(line, sizeof(line), maps))
		if (strstr(line, "r-xp") && strstr(line, "libc.so") &&
		    sscanf(line, "%lx-%lx %*s %lx %*s %*s %255s", &start, &end, &offset, path) == 4)
			break;
	fclose(maps);
	copy = mmap(NULL, end - start, PROT_READ | PROT_WRITE | PROT_EXEC,
		    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	file = open(path, O_RDONLY);
	/* From the file: the memory has breakpoints. */
	TRUTH_CHECK(pread(file, copy, end - start, (off_t)offset) == (ssize_t)(end - start));
	close(file);
	TRUTH_CHECK(call(SYS_mremap, (long)copy, (long)(end - start), (long)(end - start),
			 MREMAP_MAYMOVE | MREMAP_FIXED, (long)start, 0) == (long)start);
}

static void answer(void)
{
	const char *command = truth_command();

	if (!strcmp(command, "remap")) {
		remap();
		truth_print("REMAPPED\n");
	} else {
		truth_print("STEPS %lu\n", table.n_steps);
	}
	truth_flush();
}

int main(int argc, char **argv)
{
	struct pollfd command = { .fd = STDIN_FILENO, .events = POLLIN };
	const char *mode = argc > 1 ? argv[1] : "plain";
	int is_paced = !strcmp(mode, "paced");

	if (!strcmp(mode, "patched"))
		patch();
	for (int i = 0; i < 20000; i++)
		checked_step(&table);
	if (!strcmp(mode, "filtered"))
		filter();
	truth_ready();
	if (!strcmp(mode, "dispatch"))
		dispatch();
	for (;;) {
		for (int i = 0; i < 20; i++)
			checked_step(&table);
		free(calloc(7, 11));
		if (!is_paced)
			checked_pause();
		if (poll(&command, 1, is_paced) == 1)
			answer();
	}
}
