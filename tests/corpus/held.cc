// SPDX-License-Identifier: Apache-2.0
// Programs of the corpus in C++, the held half: only for the final measurement. labels.py says which functions leak.
#include <pthread.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "corpus.h"

namespace
{

NOINLINE size_t hash_request()
{
	std::vector<unsigned char> bytes(64 + corpus_random(1400), 3);
	size_t hash = 0;
	for (unsigned char byte : bytes)
		hash = hash * 31 + byte;
	return hash;
}

// ---- one decoded frame of fifty is kept, in each of twelve threads ----

struct Frame {
	std::vector<short> samples;
};

class Decoder
{
	std::vector<std::unique_ptr<Frame>> lost_;

      public:
	Decoder()
	{
		lost_.reserve(1 << 16);
	}
	NOINLINE void decode(unsigned long n)
	{
		auto frame = std::make_unique<Frame>();
		frame->samples.resize(1000);
		if (n % 50 == 0) {
			lost_.push_back(std::move(frame));
			corpus_keep("Decoder::decode", 2000 + sizeof(Frame), 2);
		}
	}
};

void decoder_threads()
{
	for (int i = 0; i < 12; i++)
		std::thread([] {
			Decoder decoder;
			for (unsigned long n = 1;; n++) {
				decoder.decode(n);
				corpus_sleep(0.04);
			}
		}).detach();
	for (;;)
		corpus_tick();
}

// ---- subscribers that are never unsubscribed ----

class EventBus
{
	std::deque<std::function<void()>> subscribers_;

      public:
	NOINLINE void subscribe(const std::shared_ptr<std::string> &owner)
	{
		std::string topic(700, 't');
		subscribers_.emplace_back([owner, topic] { hash_request(); });
		corpus_keep("EventBus::subscribe", 701 + 48, 2);
	}
};

void subscribers()
{
	static EventBus bus;
	auto owner = std::make_shared<std::string>("owner");
	for (;;) {
		bus.subscribe(owner);
		hash_request();
		corpus_tick();
	}
}

// ---- a buffer is forgotten where an exception is thrown ----

class Parser
{
	NOINLINE static void check(int length)
	{
		if (length % 7 == 0)
			throw std::runtime_error("bad length");
	}

      public:
	NOINLINE static bool parse(int length)
	{
		char *buffer = new char[2003];
		memset(buffer, 1, 2003);
		check(length);
		delete[] buffer;
		return true;
	}
};

void thrown_away()
{
	for (int n = 1;; n++) {
		try {
			Parser::parse(n);
		} catch (const std::runtime_error &) {
			corpus_keep("Parser::parse", 2003, 1);
		}
		hash_request();
		corpus_tick();
	}
}

// ---- a batch that comes and goes, and a seal that stays of each ----

class Aggregator
{
	std::vector<std::string> batch_;
	std::vector<std::unique_ptr<char[]>> seals_;

      public:
	Aggregator()
	{
		seals_.reserve(1 << 16);
	}
	NOINLINE void add()
	{
		batch_.emplace_back(1500, 'a');
	}
	NOINLINE void seal()
	{
		seals_.push_back(std::make_unique<char[]>(9001));
		corpus_keep("Aggregator::seal", 9001, 1);
	}
	void flush()
	{
		seal();
		std::vector<std::string>().swap(batch_);
	}
};

void sawtooth_with_residue()
{
	static Aggregator aggregator;
	for (;;) {
		aggregator.add();
		if (corpus_now % 50 == 49)
			aggregator.flush();
		corpus_tick();
	}
}

// ---- bounded: entries that live for a pace and a half ----

class TtlStore
{
	std::multimap<unsigned long, std::string> by_end_;

      public:
	NOINLINE void insert()
	{
		by_end_.emplace(corpus_now + 3 * TICKS / 2,
				std::string(200 + corpus_random(1000), 's'));
		by_end_.erase(by_end_.begin(), by_end_.upper_bound(corpus_now));
	}
};

void ttl_map()
{
	TtlStore store;
	for (;;) {
		store.insert();
		store.insert();
		corpus_tick();
	}
}

// ---- bounded: arenas of requests that keep their chunks ----

class Arena
{
	std::vector<std::unique_ptr<char[]>> chunks_;
	size_t used_ = 0, chunk_ = 0;

      public:
	NOINLINE char *allocate(size_t size)
	{
		if (chunk_ == chunks_.size())
			chunks_.push_back(std::make_unique<char[]>(16384));
		if (used_ + size > 16384) {
			chunk_++;
			used_ = 0;
			return allocate(size);
		}
		char *at = chunks_[chunk_].get() + used_;
		used_ += size;
		return at;
	}
	void reset()
	{
		used_ = chunk_ = 0;
	}
};

void arena_retention()
{
	Arena arenas[8];
	for (;;) {
		Arena &arena = arenas[corpus_now % 8];
		size_t n = 20 + corpus_random(200);
		for (size_t i = 0; i < n; i++)
			arena.allocate(1000)[0] = 1;
		arena.reset();
		hash_request();
		corpus_tick();
	}
}

// ---- bounded: a mailbox that fills in bursts and is emptied ----

class Mailbox
{
	std::deque<std::unique_ptr<std::string>> letters_;

      public:
	NOINLINE void post()
	{
		letters_.push_back(std::make_unique<std::string>(600, 'l'));
	}
	void take()
	{
		if (!letters_.empty())
			letters_.pop_front();
	}
};

void bursty_queue()
{
	Mailbox mailbox;
	for (;;) {
		if (corpus_random(100) < 3)
			for (int i = 0; i < 80; i++)
				mailbox.post();
		for (int i = 0; i < 4; i++)
			mailbox.take();
		corpus_tick();
	}
}

const struct scenario SCENARIOS[] = {
	{ "decoder_threads", decoder_threads },
	{ "subscribers", subscribers },
	{ "thrown_away", thrown_away },
	{ "sawtooth_with_residue", sawtooth_with_residue },
	{ "ttl_map", ttl_map },
	{ "arena_retention", arena_retention },
	{ "bursty_queue", bursty_queue },
};

} // namespace

CORPUS_MAIN(SCENARIOS)
