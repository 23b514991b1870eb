// SPDX-License-Identifier: Apache-2.0
// Programs of the corpus in C++, the blind half. labels.py says which of their functions leak.
#include <array>
#include <cmath>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "corpus.h"

// Keeps the name of a function in the binary as it is: no copy for constant arguments.
#define NAMED NOINLINE __attribute__((noclone))

namespace
{

// What a request needs and gives back; each service has some of it.
NOINLINE size_t serve(unsigned largest)
{
	std::vector<std::string> words;
	unsigned n = 1 + corpus_random(6);
	for (unsigned i = 0; i < n; i++)
		words.emplace_back(20 + corpus_random(largest), 'w');
	return words.back().size();
}

// ---- prepared statements: a search that writes its values into the text of the SQL ----
// A connection keeps each statement by its text; there are 12 connections, which live long.
// UserDao has 30 texts with parameters. SearchDao has another text for each search, so it leaks by way of prepare().

struct Statement {
	std::vector<char> plan;
	unsigned used = 0;
};

class Connection
{
      public:
	NAMED Statement &prepare(const std::string &sql, size_t *added)
	{
		auto found = statements_.find(sql);
		if (found != statements_.end())
			return found->second;
		Statement &statement = statements_[sql];
		statement.plan.assign(700 + corpus_random(1200), 'p');
		*added = statement.plan.size();
		return statement;
	}

      private:
	std::unordered_map<std::string, Statement> statements_;
};

struct UserDao {
	NOINLINE static size_t load(Connection &connection)
	{
		size_t added = 0;
		std::string sql = "SELECT * FROM users_" + std::to_string(corpus_random(30)) +
				  " WHERE id = ?";
		std::string row(200 + corpus_random(2000), 'r');
		return ++connection.prepare(sql, &added).used + row.size();
	}
};

struct SearchDao {
	NAMED static size_t find(Connection &connection)
	{
		static unsigned customer;
		size_t added = 0;
		std::string sql = "SELECT id FROM orders WHERE customer = " +
				  std::to_string(customer++) + " LIMIT 50";
		size_t used = ++connection.prepare(sql, &added).used;
		std::vector<std::string> rows(corpus_random(20), std::string(60, 'o'));
		corpus_keep("SearchDao::find", added + sizeof(Statement) + 48 + sql.size() + 1, 3);
		return used + rows.size();
	}
};

void prepared_statements()
{
	std::array<Connection, 12> pool;
	volatile size_t found = 0;
	for (;;) {
		for (int i = 0; i < 5; i++)
			found += UserDao::load(pool[corpus_random(12)]);
		if (corpus_random(4) == 0)
			found += SearchDao::find(pool[corpus_random(12)]);
		for (int i = 0; i < 8; i++)
			serve(1500);
		corpus_tick();
	}
}

// ---- the context of log lines: a request that leaves early ----
// Each thread has a stack of contexts. A request that is turned away (1 of 30) returns before it takes its own off.
// Beside it: the last 400 lines of the log.

class LogContext
{
      public:
	NAMED static void push(unsigned request)
	{
		std::string fields = "request=" + std::to_string(request) +
				     " tenant=" + std::to_string(request % 70);
		fields.append(60 + corpus_random(200), '.');
		top_ = std::make_unique<LogContext>(std::move(fields), std::move(top_));
	}

	static void pop()
	{
		top_ = std::move(top_->parent_);
	}

	static const std::string &fields()
	{
		return top_->fields_;
	}

	LogContext(std::string fields, std::unique_ptr<LogContext> parent)
	    : fields_(std::move(fields)), parent_(std::move(parent))
	{
	}

      private:
	std::string fields_;
	std::unique_ptr<LogContext> parent_;
	static thread_local std::unique_ptr<LogContext> top_;
};

thread_local std::unique_ptr<LogContext> LogContext::top_;

class RecentLines
{
      public:
	NOINLINE void add(const std::string &text)
	{
		std::lock_guard<std::mutex> guard(mutex_);
		lines_.push_back("INFO " + text);
		if (lines_.size() > 400)
			lines_.pop_front();
	}

      private:
	std::mutex mutex_;
	std::deque<std::string> lines_;
};

NOINLINE bool request_handle(RecentLines &lines, unsigned request)
{
	LogContext::push(request);
	lines.add(LogContext::fields());
	if (corpus_random(30) == 0) {
		corpus_keep("LogContext::push",
			    sizeof(LogContext) + LogContext::fields().capacity() + 1, 2);
		return false;
	}
	serve(800);
	LogContext::pop();
	return true;
}

void log_context()
{
	static RecentLines lines;
	for (unsigned i = 0; i < 4; i++)
		std::thread([i] {
			for (unsigned request = i << 20;; request++) {
				request_handle(lines, request);
				corpus_sleep(0.008);
			}
		}).detach();
	for (;;)
		corpus_tick();
}

// ---- an arena for each request, some of which are kept whole ----
// A payment that names an idempotency key (1 of 12 payments) stays, and its whole arena with it.
// The memory is the arena's, the decision is the handler's: both names are right.

class RequestArena
{
      public:
	NAMED void *allocate(size_t n)
	{
		if (!chunks_ || used_ + n > chunks_->size) {
			size_t size = chunks_ ? 16384 : 6000;
			auto *chunk = static_cast<Chunk *>(::operator new(sizeof(Chunk) + size));
			chunk->next = chunks_;
			chunk->size = size;
			memset(chunk + 1, 0, size);
			chunks_ = chunk;
			used_ = 0;
		}
		void *at = reinterpret_cast<char *>(chunks_ + 1) + used_;
		used_ += (n + 15) & ~static_cast<size_t>(15);
		return at;
	}

	void *release(size_t *bytes, size_t *blocks)
	{
		for (Chunk *chunk = chunks_; chunk; chunk = chunk->next) {
			*bytes += sizeof(Chunk) + chunk->size;
			++*blocks;
		}
		return std::exchange(chunks_, nullptr);
	}

	~RequestArena()
	{
		while (chunks_)
			::operator delete(std::exchange(chunks_, chunks_->next));
	}

      private:
	struct alignas(16) Chunk {
		Chunk *next;
		size_t size;
	};
	Chunk *chunks_ = nullptr;
	size_t used_ = 0;
};

struct BrowseHandler {
	NOINLINE static void list(RequestArena &arena)
	{
		unsigned n = 4 + corpus_random(30);
		for (unsigned i = 0; i < n; i++)
			memset(arena.allocate(200 + corpus_random(700)), 'l', 200);
	}
};

struct PaymentHandler {
	static void *seen[1 << 16];

	NAMED static void charge(RequestArena &arena)
	{
		static unsigned next;
		for (int i = 0; i < 9; i++)
			memset(arena.allocate(300 + corpus_random(900)), 'c', 300);
		if (corpus_random(12))
			return;
		size_t bytes = 0, blocks = 0;
		seen[next++ % (1 << 16)] = arena.release(&bytes, &blocks);
		corpus_keep("PaymentHandler::charge", bytes, blocks);
	}
};

void *PaymentHandler::seen[1 << 16];

NOINLINE void dispatch(unsigned request)
{
	RequestArena arena;
	memset(arena.allocate(400), 'h', 400);
	if (request % 3 == 0)
		PaymentHandler::charge(arena);
	else
		BrowseHandler::list(arena);
}

void arena_escapes()
{
	std::thread([] {
		for (;;) {
			for (int i = 0; i < 10; i++)
				serve(4000);
			corpus_sleep(0.01);
		}
	}).detach();
	for (unsigned request = 0;;) {
		for (int i = 0; i < 3; i++)
			dispatch(request++);
		corpus_tick();
	}
}

// ---- a registry of schemas: each producer that connects registers its schema under another id ----
// fetch() has the tree of a schema parsed, 28 nodes, and keeps it by its id for ever; 12 in a pace.
// As many trees are parsed for a check alone and thrown away. The nodes come from a parser that calls itself.

class SchemaNode
{
      public:
	NAMED static SchemaNode *parse(unsigned depth, size_t *bytes, size_t *blocks)
	{
		auto *node = new SchemaNode;
		node->name_.assign(18 + corpus_random(20), 'n');
		*bytes += sizeof(SchemaNode) + node->name_.capacity() + 1;
		*blocks += 2;
		for (unsigned i = 0; depth && i < 2 + depth % 2; i++)
			node->fields_[i] = parse(depth - 1, bytes, blocks);
		return node;
	}

	~SchemaNode()
	{
		for (SchemaNode *field : fields_)
			delete field;
	}

      private:
	std::string name_;
	SchemaNode *fields_[3] = { nullptr, nullptr, nullptr };
};

class SchemaRegistry
{
      public:
	NAMED const SchemaNode *fetch(unsigned id)
	{
		const SchemaNode *&schema = by_id_[id % by_id_.size()];
		if (!schema) {
			size_t bytes = 0, blocks = 0;
			schema = SchemaNode::parse(3, &bytes, &blocks);
			corpus_keep("SchemaRegistry::fetch", bytes, blocks);
		}
		return schema;
	}

	NOINLINE static void check()
	{
		size_t bytes = 0, blocks = 0;
		std::unique_ptr<SchemaNode> schema(SchemaNode::parse(3, &bytes, &blocks));
	}

      private:
	std::array<const SchemaNode *, 1 << 16> by_id_{};
};

void schema_registry()
{
	static SchemaRegistry registry;
	unsigned newest = 0;
	std::deque<std::string> batch;
	for (;;) {
		batch.emplace_back(2000 + corpus_random(9000), 'b');
		if (batch.size() > 150)
			batch.pop_front();
		if (corpus_now % 8 == 0)
			newest++;
		if (registry.fetch(newest) != registry.fetch(newest - newest % 3))
			serve(300);
		if (corpus_now % 8 == 4)
			SchemaRegistry::check();
		serve(2500);
		corpus_tick();
	}
}

// ---- bounded: histograms over the last three paces ----
// 40 endpoints have 6 windows of half a pace each; a window has a block of counters from its first request on.
// The oldest window goes when a new one begins.

class SlidingHistogram
{
      public:
	NOINLINE void record(unsigned long window, unsigned value)
	{
		if (windows_.empty() || windows_.back().first != window)
			rotate(window);
		windows_.back().second[value % windows_.back().second.size()]++;
	}

      private:
	NOINLINE void rotate(unsigned long window)
	{
		windows_.emplace_back(window, std::vector<uint32_t>(512 + corpus_random(2048)));
		while (windows_.size() > 6)
			windows_.pop_front();
	}

	std::deque<std::pair<unsigned long, std::vector<uint32_t>>> windows_;
};

void histograms()
{
	std::vector<SlidingHistogram> endpoints(40);
	for (;;) {
		for (int i = 0; i < 10; i++) {
			unsigned value = static_cast<unsigned>(serve(900));
			endpoints[corpus_random(40)].record(corpus_now / (TICKS / 2), value);
		}
		corpus_tick();
	}
}

// ---- bounded: a pool of connections that breathes with the load ----
// 20 to 80 connections, up and down in three paces; each has buffers of 16 and 4 kB and a session of its own.
// The idle ones are closed, the oldest first, so all of them are new after some paces.

class PooledConnection
{
      public:
	PooledConnection() : input_(16384, 'i'), output_(4096, 'o')
	{
		for (int i = 0; i < 8; i++)
			session_["option" + std::to_string(i)] =
				std::string(30 + corpus_random(90), 's');
	}

      private:
	std::vector<char> input_, output_;
	std::unordered_map<std::string, std::string> session_;
};

class ConnectionPool
{
      public:
	NOINLINE void resize(size_t wanted)
	{
		while (connections_.size() < wanted)
			connect();
		while (connections_.size() > wanted)
			connections_.pop_front();
	}

      private:
	NOINLINE void connect()
	{
		connections_.push_back(std::make_unique<PooledConnection>());
	}

	std::deque<std::unique_ptr<PooledConnection>> connections_;
};

void breathing_pool()
{
	ConnectionPool pool;
	for (;;) {
		double phase = static_cast<double>(corpus_now) / TICKS / 3 * 2 * 3.14159265;
		double jitter = corpus_random(7);
		pool.resize(static_cast<size_t>(47 - 27 * std::cos(phase) + jitter));
		for (int i = 0; i < 20; i++)
			serve(2000);
		corpus_tick();
	}
}

// ---- bounded: messages that were seen, in two generations ----
// A set of ids grows, and its table with it, for a pace and a half; then it becomes the old one and the old one goes.
// Two threads ask.

class SeenMessages
{
      public:
	NOINLINE bool first_time(std::string id)
	{
		std::lock_guard<std::mutex> guard(mutex_);
		return !old_.count(id) && young_.insert(std::move(id)).second;
	}

	NOINLINE void age()
	{
		std::lock_guard<std::mutex> guard(mutex_);
		old_ = std::move(young_);
		young_ = {};
	}

      private:
	std::mutex mutex_;
	std::unordered_set<std::string> young_, old_;
};

void dedupe_generations()
{
	static SeenMessages seen;
	for (unsigned i = 0; i < 2; i++)
		std::thread([i] {
			for (unsigned long n = i;; n += 2) {
				std::string id = "mid:" + std::to_string(n - corpus_random(20)) +
						 "@relay.example";
				if (seen.first_time(id))
					serve(600);
				if (n % 10 < 2)
					corpus_sleep(0.01);
			}
		}).detach();
	for (;;) {
		corpus_tick();
		if (corpus_now % (3 * TICKS / 2) == 0)
			seen.age();
	}
}

const struct scenario SCENARIOS[] = {
	{ "prepared_statements", prepared_statements },
	{ "log_context", log_context },
	{ "arena_escapes", arena_escapes },
	{ "schema_registry", schema_registry },
	{ "histograms", histograms },
	{ "breathing_pool", breathing_pool },
	{ "dedupe_generations", dedupe_generations },
};

} // namespace

CORPUS_MAIN(SCENARIOS)
