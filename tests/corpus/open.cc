// SPDX-License-Identifier: Apache-2.0
// Programs of the corpus in C++, the open half. labels.py says which of their functions leak.
#include <pthread.h>

#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "corpus.h"

namespace
{

NOINLINE void churn()
{
	std::string text(100 + corpus_random(900), 'c');
	text[0] = 'd';
}

// ---- a map of strings, filled by eight threads ----

class OrderBook
{
	std::mutex mutex_;
	std::map<unsigned long, std::string> orders_;

      public:
	NOINLINE void remember(unsigned long id, size_t size)
	{
		std::lock_guard<std::mutex> guard(mutex_);
		orders_[id] = std::string(size, 'o');
		corpus_keep("OrderBook::remember", size + 1 + 72, 2);
	}
};

void map_of_threads()
{
	static OrderBook book;
	for (int i = 0; i < 8; i++)
		std::thread([i] {
			pthread_setname_np(pthread_self(), ("order-" + std::to_string(i)).c_str());
			for (unsigned long n = 0;; n++) {
				book.remember(n * 8 + static_cast<unsigned>(i), 900);
				churn();
				corpus_sleep(0.08);
			}
		}).detach();
	for (;;)
		corpus_tick();
}

// ---- a cycle of shared pointers ----

struct Node {
	std::shared_ptr<Node> peer;
	char body[2000] = {};
};

class Graph
{
      public:
	NOINLINE void link()
	{
		auto a = std::make_shared<Node>(), b = std::make_shared<Node>();
		a->peer = b;
		b->peer = a;
		corpus_keep("Graph::link", 2 * (sizeof(Node) + 16), 2);
	}
	NOINLINE void pair()
	{
		auto a = std::make_shared<Node>(), b = std::make_shared<Node>();
		a->peer = b;
	}
};

void shared_cycle()
{
	Graph graph;
	for (;;) {
		graph.pair();
		if (corpus_now % 8 == 0)
			graph.link();
		corpus_tick();
	}
}

// ---- one leak over many paths: 32 kinds of messages ----

class Registry
{
	std::vector<std::unique_ptr<char[]>> names_;

      public:
	Registry()
	{
		names_.reserve(1 << 20);
	}
	NOINLINE void intern(size_t size)
	{
		names_.push_back(std::make_unique<char[]>(size));
		corpus_keep("Registry::intern", size, 1);
	}
};

template <int KIND> struct Handler {
	NOINLINE static void run(Registry &registry)
	{
		churn();
		registry.intern(300 + 17 * KIND);
		churn();
	}
};

template <int... KINDS> void dispatch(Registry &registry, std::integer_sequence<int, KINDS...>)
{
	static void (*const handlers[])(Registry &) = { Handler<KINDS>::run... };
	handlers[corpus_random(sizeof...(KINDS))](registry);
}

void many_handlers()
{
	static Registry registry;
	for (;;) {
		dispatch(registry, std::make_integer_sequence<int, 32>());
		corpus_tick();
	}
}

// ---- a log of events that nobody shortens ----

class EventLog
{
	std::vector<std::string> lines_;

      public:
	NOINLINE void append(const std::string &line)
	{
		lines_.push_back(line);
		corpus_keep("EventLog::append", line.size() + 1 + sizeof(line), 1);
	}
};

void event_log()
{
	static EventLog log;
	for (;;) {
		log.append(std::string(200 + corpus_random(400), 'e'));
		log.append(std::string(200 + corpus_random(400), 'e'));
		corpus_tick();
	}
}

// ---- bounded: an LRU cache of a list and a map, beside churn ----

class LruCache
{
	std::list<std::pair<unsigned, std::string>> order_;
	std::unordered_map<unsigned, decltype(order_)::iterator> index_;

      public:
	NOINLINE void put(unsigned key)
	{
		auto found = index_.find(key);
		if (found != index_.end()) {
			order_.splice(order_.begin(), order_, found->second);
			return;
		}
		order_.emplace_front(key, std::string(500 + key, 'v'));
		index_[key] = order_.begin();
		if (order_.size() > 300) {
			index_.erase(order_.back().first);
			order_.pop_back();
		}
	}
};

void lru_list()
{
	LruCache cache;
	for (;;) {
		for (int i = 0; i < 3; i++)
			cache.put(corpus_random(1200));
		churn();
		corpus_tick();
	}
}

// ---- bounded: a warm-up, everything is loaded once ----

class Catalog
{
	std::unordered_map<unsigned, std::unique_ptr<std::string>> pages_;

      public:
	NOINLINE const std::string &load(unsigned key)
	{
		auto &page = pages_[key];
		if (!page)
			page = std::make_unique<std::string>(4000, 'p');
		return *page;
	}
};

void warm_up()
{
	Catalog catalog;
	for (;;) {
		for (int i = 0; i < 4; i++)
			catalog.load(corpus_random(250));
		churn();
		corpus_tick();
	}
}

// ---- bounded: a pool of threads that grows to twelve in its first three paces ----

class ThreadPool
{
	int n_ = 0;

	NOINLINE static void serve()
	{
		std::vector<char> scratch(50000);
		for (;;) {
			churn();
			scratch[corpus_random(50000)] = 1;
			corpus_sleep(0.05);
		}
	}

      public:
	NOINLINE void grow()
	{
		if (n_++ < 12)
			std::thread(serve).detach();
	}
};

void growing_pool()
{
	ThreadPool pool;
	for (;;) {
		if (corpus_now % 25 == 10)
			pool.grow();
		churn();
		corpus_tick();
	}
}

// ---- callbacks that are never taken off, among some that are ----

class Bus
{
	std::unordered_map<unsigned long, std::function<void()>> callbacks_;

      public:
	NOINLINE void subscribe(unsigned long id)
	{
		std::vector<char> state(1300, 's');
		corpus_keep("Bus::subscribe", 1300, 1);
		callbacks_.emplace(id, [state] { corpus_random(state[0]); });
	}

	NOINLINE void notify()
	{
		std::vector<std::function<void()>> now;
		for (unsigned long i = 0; i < 8; i++)
			now.emplace_back(
				[text = std::string(200 + i, 'n')] { corpus_random(text[0]); });
		for (auto &each : now)
			each();
	}
};

void callbacks()
{
	Bus bus;
	for (unsigned long n = 0;; n++) {
		bus.subscribe(n);
		bus.notify();
		corpus_tick();
	}
}

// ---- memory that is freed all at once each two paces, but for a twentieth ----

class Reclaimer
{
	std::vector<std::string *> retired_;
	std::vector<std::string *> stuck_;

      public:
	NOINLINE void retire()
	{
		retired_.push_back(new std::string(1900, 'r'));
		if (retired_.size() < 2 * TICKS)
			return;
		for (size_t i = 0; i < retired_.size(); i++) {
			if (i % 20) {
				delete retired_[i];
				continue;
			}
			stuck_.push_back(retired_[i]);
			corpus_keep("Reclaimer::retire", 1901 + sizeof(std::string), 2);
		}
		retired_.clear();
	}
};

void reclaimed()
{
	Reclaimer reclaimer;
	for (;;) {
		reclaimer.retire();
		churn();
		corpus_tick();
	}
}

// ---- bounded: the hundred best of all, and a ring of the last ----

class Ranking
{
	std::map<unsigned, std::string> best_;
	std::deque<std::string> last_;

      public:
	NOINLINE void offer()
	{
		best_[corpus_random(1000000)] = std::string(700, 'b');
		if (best_.size() > 100)
			best_.erase(best_.begin());
		last_.push_back(std::string(600 + corpus_random(300), 'l'));
		if (last_.size() > 150)
			last_.pop_front();
	}
};

void ranking()
{
	Ranking ranking;
	for (;;) {
		ranking.offer();
		ranking.offer();
		corpus_tick();
	}
}

const struct scenario SCENARIOS[] = {
	{ "map_of_threads", map_of_threads },
	{ "shared_cycle", shared_cycle },
	{ "many_handlers", many_handlers },
	{ "event_log", event_log },
	{ "lru_list", lru_list },
	{ "warm_up", warm_up },
	{ "growing_pool", growing_pool },
	{ "callbacks", callbacks },
	{ "reclaimed", reclaimed },
	{ "ranking", ranking },
};

} // namespace

CORPUS_MAIN(SCENARIOS)
