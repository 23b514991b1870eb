// SPDX-License-Identifier: Apache-2.0
/*
 * Holds objects of C++ classes in containers, and loses some. Prints its truth as JSON to the command `truth`: objects by
 * class, lost blocks, and bytes that some variables hold.
 */
#include <malloc.h>
#include <pthread.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

struct Shape {
	virtual ~Shape() = default;
	virtual int area() const = 0;
	int filling[4] = {};
};

struct Circle : Shape {
	int area() const override
	{
		return 1;
	}
	double more[10] = {};
};

struct Square : Shape {
	int area() const override
	{
		return 2;
	}
	char more[200] = {};
};

namespace app
{
struct Session {
	virtual ~Session() = default;
	explicit Session(int number)
	    : user("a name that is too long for the string itself " + std::to_string(number)),
	      buffer(4096)
	{
	}
	std::string user;
	std::vector<char> buffer;
};

struct First {
	virtual ~First() = default;
	long a = 0;
};

struct Second {
	virtual ~Second() = default;
	long b = 0;
};

struct Both : First, Second {
	char more[100] = {};
};

struct Forgotten {
	virtual ~Forgotten() = default;
	char more[500] = {};
};

template <class T> struct Box {
	virtual ~Box() = default;
	T value{};
};
} // namespace app

std::unordered_map<int, std::shared_ptr<app::Session>> g_sessions;
std::vector<std::unique_ptr<Shape>> g_shapes;
std::list<std::string> g_log;
static std::vector<app::Second *> g_by_second_base;
static std::vector<app::Box<int> *> g_boxes;
static char *g_raw[101];

__attribute__((noinline)) static void fill()
{
	for (int i = 0; i < 1009; i++)
		g_sessions[i] = std::make_shared<app::Session>(i);
	for (int i = 0; i < 3001; i++) {
		if (i % 3)
			g_shapes.push_back(std::make_unique<Circle>());
		else
			g_shapes.push_back(std::make_unique<Square>());
	}
	for (int i = 0; i < 2003; i++)
		g_log.push_back("a line that is too long for the string itself " +
				std::to_string(i));
	for (int i = 0; i < 997; i++)
		g_by_second_base.push_back(new app::Both);
	for (int i = 0; i < 307; i++)
		g_boxes.push_back(new app::Box<int>);
	for (auto &raw : g_raw)
		raw = new char[10007];
	for (int i = 0; i < 701; i++)
		new app::Forgotten;
	auto *lost = new std::map<int, std::string>;
	for (int i = 0; i < 11; i++)
		(*lost)[i] = "a lost line that is too long for the string itself";
}

__attribute__((noinline)) static void scrub()
{
	volatile char filling[100000];

	memset((char *)filling, 0, sizeof(filling));
}

int main()
{
	char line[64];

	fill();
	scrub();
	std::thread([] {
		std::vector<std::unique_ptr<char[]>> held;

		for (int i = 0; i < 503; i++)
			held.push_back(std::make_unique<char[]>(128));
		pthread_setname_np(pthread_self(), "holder");
		for (;;)
			pause();
	}).detach();
	usleep(300000);
	dprintf(STDOUT_FILENO, "READY %d\n", getpid());
	while (read(STDIN_FILENO, line, sizeof(line)) > 0) {
		scrub();
		dprintf(STDOUT_FILENO,
			"{\"classes\": {\"Circle\": 2000, \"Square\": 1001, \"app::Both\": 997, \"app::Box<int>\": 307, "
			"\"app::Forgotten\": 701}, \"sessions\": 1009, \"lost_blocks\": %d, \"thread_blocks\": 504, "
			"\"raw_bytes\": %zu}\n",
			701 + 1 + 11 + 11, 101 * (malloc_usable_size(g_raw[0]) + 8));
	}
}
