// A request server in miniature: RATE requests a second on THREADS threads (0 and a sixth argument: on the main thread), each
// computes for WORK us, makes one block of 16 to 1,024 bytes and deletes it; one in EVERY is remembered by SessionIndex::remember and
// never forgotten. Truth goes to a file four times a second: pairs, leaked blocks and bytes, CPU seconds.
// Usage: server RATE EVERY TRUTH_FILE THREADS WORK_US [main]

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>
#include <unistd.h>
#include <time.h>
static std::atomic<unsigned long> pairs, leaked_blocks, leaked_bytes;
struct Request {
	char *body;
	size_t size;
};
class SessionIndex
{
	std::vector<char *> kept_;

      public:
	SessionIndex()
	{
		kept_.reserve(1 << 24);
	}
	__attribute__((noinline)) void remember(const Request &r)
	{
		char *copy = new char[r.size];
		memcpy(copy, r.body, r.size);
		kept_.push_back(copy);
		leaked_blocks.fetch_add(1, std::memory_order_relaxed);
		leaked_bytes.fetch_add(r.size, std::memory_order_relaxed);
	}
};
static SessionIndex index_;
__attribute__((noinline)) void parse(Request &r, size_t n)
{
	r.size = n;
	r.body = new char[n];
	r.body[0] = (char)n;
}
static double work_us;
static volatile unsigned sink;
__attribute__((noinline)) void compute()
{
	unsigned long end = (unsigned long)(work_us * 1000);
	timespec a, b;
	clock_gettime(CLOCK_MONOTONIC, &a);
	do {
		for (int i = 0; i < 200; ++i)
			sink = sink * 31 + i;
		clock_gettime(CLOCK_MONOTONIC, &b);
	} while ((b.tv_sec - a.tv_sec) * 1000000000ul + b.tv_nsec - a.tv_nsec < end);
}
__attribute__((noinline)) void handle(size_t n, bool leak)
{
	if (work_us > 0)
		compute();
	Request r;
	parse(r, n);
	if (leak)
		index_.remember(r);
	delete[] r.body;
	pairs.fetch_add(1, std::memory_order_relaxed);
}
__attribute__((noinline)) void serve(double rate, int every)
{
	std::minstd_rand rng(7);
	auto t0 = std::chrono::steady_clock::now();
	unsigned long done = 0;
	for (;;) {
		double el = std::chrono::duration<double>(std::chrono::steady_clock::now() - t0)
				    .count();
		unsigned long due = (unsigned long)(el * rate);
		if (rate <= 0)
			due = done + 10000;
		if (due <= done) {
			usleep(1000);
			continue;
		}
		if (due - done > 200000) {
			due = done + 20000;
			t0 += std::chrono::milliseconds(0);
		}
		while (done < due) {
			handle(16 + rng() % 1009, every && done % every == 0);
			++done;
		}
	}
}
static void tell(FILE *f)
{
	for (;;) {
		timespec t, c;
		clock_gettime(CLOCK_REALTIME, &t);
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &c);
		fprintf(f, "%ld.%03ld pairs %lu leaked %lu bytes %lu cpu %.3f\n", t.tv_sec,
			t.tv_nsec / 1000000, pairs.load(), leaked_blocks.load(),
			leaked_bytes.load(), c.tv_sec + c.tv_nsec / 1e9);
		fflush(f);
		usleep(250000);
	}
}
int main(int argc, char **argv)
{
	double rate = argc > 1 ? atof(argv[1]) : 50000;
	int every = argc > 2 ? atoi(argv[2]) : 100;
	int threads = argc > 4 ? atoi(argv[4]) : 1;
	work_us = argc > 5 ? atof(argv[5]) : 0;
	FILE *f = fopen(argc > 3 ? argv[3] : "truth.txt", "w");
	std::vector<std::thread> ts;
	for (int i = 0; i < threads; ++i)
		ts.emplace_back(serve, rate / threads, every);
	if (argc > 6) {
		std::thread(tell, f).detach();
		serve(rate, every);
	}
	tell(f);
}
