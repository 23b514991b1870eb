// Four leaks through containers of the C++ library, each by one function of the program and its own share:
//   40 %  Orders::remember        std::map<int, std::string>, strings of 4,000 bytes
//   30 %  AuditTrail::append      one std::string that only grows (amortised), 3,000 bytes a time
//   20 %  Prices::record          std::vector<double> that only grows, 250 values of 8 bytes a time
//   10 %  Sessions::open          std::make_shared<Session> in an unordered_map, 1,000 bytes each
// 50 of each a second. Truth (bytes asked for by size of the content) each 0.25 s.
#include <cstdio>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>
#include <unistd.h>
#include <time.h>
struct Session {
	char body[1000];
};
struct Orders {
	std::map<int, std::string> by_id;
	__attribute__((noinline)) void remember(int i, const std::string &t)
	{
		by_id[i] = t;
	}
};
struct AuditTrail {
	std::string text;
	__attribute__((noinline)) void append(const std::string &t)
	{
		text.append(t, 0, 3000);
	}
};
struct Prices {
	std::vector<double> all;
	__attribute__((noinline)) void record(int i)
	{
		for (int k = 0; k < 250; ++k)
			all.push_back(i + k);
	}
};
struct Sessions {
	std::unordered_map<int, std::shared_ptr<Session>> open_;
	__attribute__((noinline)) void open(int i)
	{
		open_.emplace(i, std::make_shared<Session>());
	}
};
int main()
{
	Orders o;
	AuditTrail a;
	Prices p;
	Sessions s;
	std::string text(4000, 'o');
	for (int i = 0;; ++i) {
		o.remember(i, text);
		a.append(text);
		p.record(i);
		s.open(i);
		usleep(20000);
		if (i % 12 == 0) {
			timespec t;
			clock_gettime(CLOCK_REALTIME, &t);
			printf("%ld.%03ld orders %zu audit %zu prices %zu sessions %zu\n", t.tv_sec,
			       t.tv_nsec / 1000000, o.by_id.size() * 4001, a.text.capacity(),
			       p.all.capacity() * 8, s.open_.size() * 1016);
			fflush(stdout);
		}
	}
}
