/* GLib slices of one size class from two callers: event_new() makes and frees 2,000 a second, meta_new() keeps 200 a second
   for ever. The slab allocator asks libc for a slab when either of them finds none free. Truth each 0.25 s. */
#include <glib.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>
static unsigned long bytes, blocks;
__attribute__((noinline)) gpointer event_new(void)
{
	gpointer p = g_slice_alloc(256);
	*(char *)p = 1;
	return p;
}
__attribute__((noinline)) gpointer meta_new(void)
{
	gpointer p = g_slice_alloc(256);
	*(char *)p = 2;
	bytes += 256;
	++blocks;
	return p;
}
int main(void)
{
	gpointer queue[64];
	int n = 0;
	for (int i = 0;; ++i) {
		for (int j = 0; j < 20; ++j) {
			if (n == 64)
				while (n > 0)
					g_slice_free1(256, queue[--n]);
			queue[n++] = event_new();
		}
		meta_new();
		meta_new();
		usleep(10000);
		if (i % 25 == 0) {
			struct timespec t;
			clock_gettime(CLOCK_REALTIME, &t);
			printf("%ld.%03ld leaked_bytes %lu blocks %lu\n", t.tv_sec,
			       t.tv_nsec / 1000000, bytes, blocks);
			fflush(stdout);
		}
	}
}
