// SPDX-License-Identifier: Apache-2.0
/*
 * Threads that rename themselves after they allocated, and threads that end after it. A thread's last name
 * is its name, also after its end. Two threads are made before READY; the others come and go while traced.
 *
 * The truth carries "ended": the tids of threads that are gone. Incomplete: pthread_create allocates.
 */
#include "truth.h"

#define N_SHORT 5

static pthread_barrier_t turn;
static pthread_mutex_t ended_lock = PTHREAD_MUTEX_INITIALIZER;
static char ended[256];

SITE void rename_keep(void)
{
	struct truth_site *site = TRUTH_HEAP();

	truth_block(malloc(1063), 1063, site);
}

SITE void rename_short_lived_keep(void)
{
	struct truth_site *site = TRUTH_HEAP();

	truth_block(malloc(1069), 1069, site);
}

static void take_name(struct truth_site *site, const char *name)
{
	truth_name_thread(name);
	prctl(PR_GET_NAME, site->thread);
}

/* Two threads, before-1 and before-2, which become after-1 and after-2 and stay. */
static void *rename_and_stay(void *argument)
{
	int number = (int)(intptr_t)argument;
	char name[16];

	snprintf(name, sizeof(name), "before-%d", number);
	truth_name_thread(name);
	free(malloc(1));
	pthread_barrier_wait(&turn);
	pthread_barrier_wait(&turn);
	for (int i = 0; i < 53; i++)
		rename_keep();
	snprintf(name, sizeof(name), "after-%d", number);
	take_name(truth_at("rename_keep", "heap"), name);
	for (int i = 0; i < 59; i++)
		rename_keep();
	pthread_barrier_wait(&turn);
	pthread_barrier_wait(&turn);
	return NULL;
}

static void *allocate_and_end(void *argument)
{
	char name[16];
	size_t used;

	snprintf(name, sizeof(name), "short-%d", (int)(intptr_t)argument);
	truth_name_thread(name);
	for (int i = 0; i < 61; i++)
		rename_short_lived_keep();
	pthread_mutex_lock(&ended_lock);
	used = strlen(ended);
	snprintf(ended + used, sizeof(ended) - used, "%s%d", used ? "," : "", truth_tid());
	pthread_mutex_unlock(&ended_lock);
	return NULL;
}

int main(void)
{
	pthread_t thread;
	char extra[300];

	pthread_barrier_init(&turn, NULL, 3);
	for (long i = 1; i <= 2; i++)
		TRUTH_CHECK(!pthread_create(&thread, NULL, rename_and_stay, (void *)i));
	pthread_barrier_wait(&turn);
	truth_start();
	pthread_barrier_wait(&turn);
	for (long i = 1; i <= N_SHORT; i++) {
		TRUTH_CHECK(!pthread_create(&thread, NULL, allocate_and_end, (void *)i));
		TRUTH_CHECK(!pthread_join(thread, NULL));
	}
	pthread_barrier_wait(&turn);
	snprintf(extra, sizeof(extra), "\"ended\":[%s],", ended);
	truth_report(false, 0, extra);
	truth_stay();
}
