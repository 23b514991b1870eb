// SPDX-License-Identifier: Apache-2.0
/*
 * Children by every door, some with work of their own: nothing of it is the parent's, all around it is.
 *
 * vfork and posix_spawn children share the parent's memory until they execute; they do nothing in it here.
 * Incomplete: posix_spawn and system map a stack for the child.
 */
#include "truth.h"
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>

#define RW (PROT_READ | PROT_WRITE)
#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS)

static char *const arguments[] = { "true", NULL };
static char *const environment[] = { NULL };
static char *pages;
static struct block block;

SITE void spawn_parent_keep(void)
{
	struct truth_site *site = TRUTH_HEAP();

	truth_block(malloc(1039), 1039, site);
}

SITE void spawn_parent_seed(void)
{
	block = truth_block(malloc(1051), 1051, TRUTH_HEAP());
}

SITE void spawn_parent_map(void)
{
	struct truth_site *site = truth_at(__func__, "map");

	pages = mmap(NULL, 7 * TRUTH_PAGE, RW, ANONYMOUS, -1, 0);
	TRUTH_CHECK(pages != MAP_FAILED);
	truth_add(site, 7 * TRUTH_PAGE);
}

SITE void spawn_child_work(void)
{
	TRUTH_CHECK(malloc(1061) && calloc(7, 1063));
	TRUTH_CHECK(mmap(NULL, 11 * TRUTH_PAGE, RW, ANONYMOUS, -1, 0) != MAP_FAILED);
	TRUTH_CHECK(!munmap(pages, 7 * TRUTH_PAGE));
	TRUTH_CHECK(sbrk(1000003) != (void *)-1);
	free(block.address);
}

static void await(pid_t pid)
{
	int status;

	TRUTH_CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
}

static void by_vfork(void)
{
	pid_t pid = vfork();

	if (!pid) {
		execve("/bin/true", arguments, environment);
		_exit(1);
	}
	await(pid);
}

static void by_posix_spawn(void)
{
	pid_t pid;

	TRUTH_CHECK(!posix_spawn(&pid, "/bin/true", NULL, NULL, arguments, environment));
	await(pid);
}

static void by_fork(bool executes)
{
	pid_t pid = fork();

	if (!pid) {
		spawn_child_work();
		if (executes)
			execve("/bin/true", arguments, environment);
		_exit(executes);
	}
	await(pid);
}

int main(void)
{
	truth_at("spawn_child_work", "heap");
	truth_at("spawn_child_work", "map");
	truth_start();
	for (int i = 0; i < 5; i++) {
		spawn_parent_map();
		spawn_parent_seed();
		by_vfork();
		spawn_parent_keep();
		by_posix_spawn();
		spawn_parent_keep();
		by_fork(false);
		spawn_parent_keep();
		by_fork(true);
		TRUTH_CHECK(!system("true"));
		spawn_parent_keep();
		TRUTH_CHECK(!munmap(pages, 7 * TRUTH_PAGE));
		truth_drop(truth_at("spawn_parent_map", "map"), 7 * TRUTH_PAGE);
		truth_release(block);
	}
	spawn_parent_map();
	truth_report(false, 0, "");
	truth_stay();
}
