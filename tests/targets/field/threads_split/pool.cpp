// One leak, made by many threads. "pool": 48 workers that live; "conn": a new thread for each connection, 40 a second.
// Beside it a cache that is bounded (Cache::put) and churn. Truth each 0.25 s.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <mutex>
#include <string>
#include <thread>
#include <vector>
#include <unistd.h>
#include <time.h>
#include <pthread.h>
static std::atomic<unsigned long> bytes, blocks;
static std::mutex m;
struct Tls {
	char *state;
};
static std::vector<Tls *> all;
__attribute__((noinline)) Tls *tls_context_new(size_t n)
{
	Tls *t = new Tls;
	t->state = new char[n];
	memset(t->state, 1, n);
	bytes += n + sizeof(Tls);
	blocks += 2;
	return t;
}
struct Cache {
	std::mutex m;
	std::deque<std::string> q;
	__attribute__((noinline)) void put(size_t n)
	{
		std::lock_guard<std::mutex> g(m);
		q.emplace_back(n, 'x');
		if (q.size() > 200)
			q.pop_front();
	}
};
static Cache cache;
__attribute__((noinline)) void handshake(int i)
{
	Tls *t = tls_context_new(6000 + i % 100);
	cache.put(20000);
	std::lock_guard<std::mutex> g(m);
	all.push_back(t);
}
static void worker(int i)
{
	pthread_setname_np(pthread_self(), ("worker-" + std::to_string(i)).c_str());
	for (;;) {
		handshake(i);
		usleep(1000000);
	}
}
static void conn(int i)
{
	pthread_setname_np(pthread_self(), "conn");
	handshake(i);
	usleep(20000);
}
int main(int argc, char **argv)
{
	bool pool = argc > 1 && !strcmp(argv[1], "pool");
	all.reserve(1 << 20);
	std::vector<std::thread> ts;
	if (pool)
		for (int i = 0; i < 48; ++i) {
			ts.emplace_back(worker, i);
			usleep(20000);
		}
	for (int i = 0;; ++i) {
		if (!pool)
			std::thread(conn, i).detach();
		usleep(25000);
		if (i % 10 == 0) {
			timespec t;
			clock_gettime(CLOCK_REALTIME, &t);
			printf("%ld.%03ld leaked_bytes %lu blocks %lu\n", t.tv_sec,
			       t.tv_nsec / 1000000, bytes.load(), blocks.load());
			fflush(stdout);
		}
	}
}
