// SPDX-License-Identifier: Apache-2.0
/*
 * Allocates under C++: containers, streams, virtual functions, exceptions under way, first uses of static and
 * thread-local objects.
 */
#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <semaphore>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

#include "own_stack.h"

namespace
{

volatile long sink;
void *volatile used;

OWN void *make(std::size_t size)
{
	char *block = new char[size];

	AFTER;
	used = block;
	return block;
}

OWN void strings(int n)
{
	std::string text(n, 'x');

	text += "y";
	AFTER;
	sink = sink + text.size();
}

OWN void vectors(int n)
{
	std::vector<int> values;

	for (int i = 0; i < n; i++)
		values.push_back(i);
	sink = sink + values.back();
}

OWN void maps(int n)
{
	std::map<std::string, int> named;

	for (int i = 0; i < n; i++)
		named["a key of more than fifteen characters " + std::to_string(i)] = i;
	sink = sink + named.size();
}

struct Guard {
	OWN ~Guard()
	{
		make(227);
		AFTER;
	}
};

OWN void throws(int depth)
{
	Guard guard;

	if (depth > 0)
		throws(depth - 1);
	else
		throw std::runtime_error("a message that is long enough to be allocated");
	AFTER;
}

OWN void catches()
{
	try {
		throws(3);
	} catch (const std::exception &error) {
		make(229);
		std::string text = error.what();
		text += " and more, and more, and more";
		sink = sink + text.size();
	}
}

OWN void throws_again()
{
	try {
		try {
			throws(1);
		} catch (...) {
			make(233);
			throw;
		}
	} catch (const std::exception &) {
		make(239);
	}
}

struct Base {
	virtual void act(int n) = 0;
	virtual ~Base() = default;
};

struct Derived : Base {
	OWN void act(int n) override
	{
		make(241 + n);
		AFTER;
	}
};

struct Virtually : virtual Base {
	OWN void act(int n) override
	{
		make(251 + n);
		AFTER;
	}
};

OWN void virtual_calls()
{
	Derived derived;
	Virtually virtually;
	Base *bases[] = { &derived, &virtually };

	for (Base *base : bases) {
		base->act(1);
		AFTER;
	}
}

OWN void closures()
{
	int one = 1;
	std::function<void(int)> closure = [&](int n) {
		make(257 + one + n);
		AFTER;
	};
	std::vector<int> values = { 3, 1, 2, 5, 4 };

	closure(1);
	std::sort(values.begin(), values.end(), [](int a, int b) {
		make(263);
		return a < b;
	});
}

OWN void streams()
{
	std::ostringstream stream;

	stream << 1 << "two" << 3.0;
	sink = sink + stream.str().size();
}

OWN void shared()
{
	auto values = std::make_shared<std::vector<int>>(10);

	sink = sink + values->size();
}

struct Made {
	OWN Made()
	{
		make(269);
		AFTER;
	}
};

OWN Made &first_use()
{
	static Made made;

	return made;
}

thread_local Made of_thread;

template <int depth> struct Deeper {
	OWN static void go()
	{
		Deeper<depth - 1>::go();
		AFTER;
	}
};

template <> struct Deeper<0> {
	OWN static void go()
	{
		make(271);
		AFTER;
	}
};

void work()
{
	for (int round = 0; round < 5; round++) {
		make(277);
		strings(50 + round);
		vectors(40);
		maps(5);
		catches();
		throws_again();
		virtual_calls();
		closures();
		streams();
		shared();
		first_use();
		Deeper<15>::go();
		std::binary_semaphore done(0);
		std::thread thread([&done] {
			make(281);
			used = &of_thread;
			strings(100);
			catches();
			done.release();
			/* What threads have freed is forgotten once they are gone: this one stays. */
			for (;;)
				pause();
		});
		thread.detach();
		done.acquire();
	}
}

} // namespace

int main()
{
	own_stack_serve(work);
}
