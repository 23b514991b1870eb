// SPDX-License-Identifier: Apache-2.0
/* Allocates in C++20 coroutines: their frames, and in them before and after each suspension, from several resumers. */
#include <coroutine>
#include <exception>
#include <string>

#include "own_stack.h"

namespace
{

volatile long sink;

struct Generator {
	struct promise_type {
		int value = 0;

		Generator get_return_object()
		{
			return Generator{ std::coroutine_handle<promise_type>::from_promise(
				*this) };
		}
		std::suspend_always initial_suspend()
		{
			return {};
		}
		std::suspend_always final_suspend() noexcept
		{
			return {};
		}
		std::suspend_always yield_value(int next)
		{
			value = next;
			return {};
		}
		void return_void()
		{
		}
		void unhandled_exception()
		{
			std::terminate();
		}
	};

	std::coroutine_handle<promise_type> handle;
};

OWN void inside(int n)
{
	own_stack_keep(283 + n);
	AFTER;
}

OWN Generator inner(int n)
{
	std::string text(40 + n, 'x');

	for (int i = 0; i < n; i++) {
		inside(i);
		co_yield i;
		text += text;
		inside(i);
	}
	sink = sink + text.size();
}

OWN Generator outer(int n)
{
	Generator nested = inner(n);

	while (!nested.handle.done()) {
		nested.handle.resume();
		AFTER;
		inside(n);
		co_yield nested.handle.promise().value;
	}
	nested.handle.destroy();
}

OWN void resume_one_way(Generator &generator)
{
	generator.handle.resume();
	AFTER;
}

OWN void resume_another_way(Generator &generator)
{
	char room[300];

	room[sink & 255] = 1;
	generator.handle.resume();
	sink = sink + room[1];
}

void work()
{
	for (int round = 0; round < 5; round++) {
		Generator generator = outer(3);
		for (int i = 0; !generator.handle.done(); i++)
			i & 1 ? resume_another_way(generator) : resume_one_way(generator);
		generator.handle.destroy();
	}
}

} // namespace

int main()
{
	own_stack_serve(work);
}
