// Leaks 100 blocks of 5,003 bytes a second in a static function of a C++ namespace, called through an inlined one.
#include <cstdio>
#include <cstring>
#include <vector>
#include <unistd.h>
#include <time.h>
static unsigned long bytes, blocks;
static std::vector<char *> kept;
namespace billing
{
namespace
{
__attribute__((noinline)) char *append_ledger_row(size_t n)
{
	char *p = new char[n];
	memset(p, 1, n);
	bytes += n;
	++blocks;
	return p;
}
inline __attribute__((always_inline)) void post_invoice(int i)
{
	kept.push_back(append_ledger_row(5003));
	if (i < 0)
		puts("?");
}
} // namespace
template <class T> struct Queue {
	__attribute__((noinline)) void drain(T i)
	{
		post_invoice(i);
	}
};
} // namespace billing
int main()
{
	kept.reserve(1 << 20);
	billing::Queue<int> q;
	for (int i = 0;; ++i) {
		q.drain(i);
		usleep(10000);
		if (i % 25 == 0) {
			timespec t;
			clock_gettime(CLOCK_REALTIME, &t);
			printf("%ld.%03ld leaked_bytes %lu blocks %lu\n", t.tv_sec,
			       t.tv_nsec / 1000000, bytes, blocks);
			fflush(stdout);
		}
	}
}
