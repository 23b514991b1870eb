// Hardly anything leaks here, yet resident memory grows by 8 MiB a second: one after the other each of 14 workers gets a large report to do
// (render_report: 8,000 blocks of 1,000 bytes), gives all of it back, and keeps one small entry that was allocated last
// (keep_summary, 48 bytes), so that the free memory below it stays in the worker's arena. Truth: kept and resident bytes.
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>
#include <unistd.h>
#include <time.h>
static unsigned long kept;
static std::mutex m;
static std::condition_variable c;
static int turn = -1;
__attribute__((noinline)) void *keep_summary()
{
	char *p = (char *)malloc(2048);
	memset(p, 1, 48);
	kept += 2048;
	return p;
}
__attribute__((noinline)) void render_report(std::vector<void *> &rows)
{
	for (int i = 0; i < 8000; ++i) {
		char *p = (char *)malloc(1000);
		memset(p, 2, 1000);
		rows.push_back(p);
	}
}
static void worker(int n)
{
	std::vector<void *> rows, summaries;
	rows.reserve(8000);
	for (;;) {
		{
			std::unique_lock<std::mutex> l(m);
			c.wait(l, [n] { return turn == n; });
			turn = -1;
		}
		render_report(rows);
		summaries.push_back(keep_summary());
		for (void *p : rows)
			free(p);
		rows.clear();
	}
}
int main()
{
	std::vector<std::thread> t;
	for (int i = 0; i < 14; ++i)
		t.emplace_back(worker, i);
	sleep(3);
	for (int r = 0;; ++r) {
		{
			std::lock_guard<std::mutex> l(m);
			turn = r % 14;
		}
		c.notify_all();
		for (int k = 0; k < 4; ++k) {
			usleep(250000);
			unsigned long a, b;
			FILE *f = fopen("/proc/self/statm", "r");
			if (fscanf(f, "%lu %lu", &a, &b) != 2)
				b = 0;
			fclose(f);
			timespec s;
			clock_gettime(CLOCK_REALTIME, &s);
			printf("%ld.%03ld kept %lu rss %lu\n", s.tv_sec, s.tv_nsec / 1000000, kept,
			       b * 4096);
			fflush(stdout);
		}
	}
}
