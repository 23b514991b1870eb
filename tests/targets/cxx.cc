// SPDX-License-Identifier: Apache-2.0
/*
 * C++: every operator new and delete, and containers whose allocator counts what it asks for.
 *
 * The sites are extern "C" functions; between them and malloc lie mangled frames. One site is mangled
 * itself: depot::Shelf<int>::stock, which a report shows demangled and with its parameters.
 */
#include "truth.h"
#include <map>
#include <new>
#include <string>
#include <vector>

namespace
{
constexpr int n_rounds = 17;

struct alignas(64) Line {
	char bytes[64 * 3];
};

/* Sits between a container and operator new, and tells the truth about it. */
template <class T> struct Counting {
	using value_type = T;

	explicit Counting(truth_site *site) : site(site)
	{
	}
	template <class U> Counting(const Counting<U> &other) : site(other.site)
	{
	}
	T *allocate(std::size_t n)
	{
		truth_add(site, static_cast<long>(n * sizeof(T)));
		return static_cast<T *>(::operator new(n * sizeof(T)));
	}
	void deallocate(T *block, std::size_t n)
	{
		truth_drop(site, static_cast<long>(n * sizeof(T)));
		::operator delete(block, n * sizeof(T));
	}
	template <class U> bool operator==(const Counting<U> &other) const
	{
		return site == other.site;
	}
	template <class U> bool operator!=(const Counting<U> &other) const
	{
		return site != other.site;
	}

	truth_site *site;
};

using CountingString = std::basic_string<char, std::char_traits<char>, Counting<char>>;
using CountingVector = std::vector<long, Counting<long>>;
using CountingMap = std::map<int, double, std::less<int>, Counting<std::pair<const int, double>>>;

/* Room for containers that are never destroyed, without an allocation of their own. */
template <class T, class... Arguments> T *immortal(void *room, Arguments &&...arguments)
{
	return ::new (room) T(static_cast<Arguments &&>(arguments)...);
}

/* Keeps a pair of new and delete, which the standard lets a compiler leave out. */
void escape(void *block)
{
	asm volatile("" : : "g"(block) : "memory");
}
} // namespace

namespace depot
{
template <class T> struct Shelf {
	SITE static T *stock(std::size_t n);
};

template <class T> T *Shelf<T>::stock(std::size_t n)
{
	truth_add(truth_at("depot::Shelf<int>::stock", "heap"), static_cast<long>(n * sizeof(T)));
	return new T[n];
}
} // namespace depot

extern "C" {
SITE void cxx_new()
{
	truth_site *site = TRUTH_HEAP();
	long *kept = new long(1);

	escape(kept);
	truth_add(site, sizeof(*kept));
}

SITE void cxx_new_array()
{
	truth_site *site = TRUTH_HEAP();
	char *kept = new char[1091];

	escape(kept);
	truth_add(site, 1091);
}

SITE void cxx_new_nothrow()
{
	truth_site *site = TRUTH_HEAP();
	char *kept = new (std::nothrow) char[1093];

	TRUTH_CHECK(kept);
	truth_add(site, 1093);
}

SITE void cxx_new_aligned()
{
	truth_site *site = TRUTH_HEAP();
	Line *kept = new Line;

	escape(kept);
	truth_add(site, sizeof(*kept));
}

SITE void cxx_new_deleted()
{
	truth_site *site = TRUTH_HEAP();
	long *gone = new long(2);
	char *array = new char[1097];
	Line *line = new Line;

	escape(gone);
	escape(array);
	escape(line);
	truth_add(site, sizeof(*gone));
	truth_add(site, 1097);
	truth_add(site, sizeof(*line));
	delete gone;
	truth_drop(site, sizeof(*gone));
	delete[] array;
	truth_drop(site, 1097);
	delete line;
	truth_drop(site, sizeof(*line));
}

SITE void cxx_sized_delete()
{
	truth_site *site = TRUTH_HEAP();
	void *gone = ::operator new(1103);

	escape(gone);
	truth_add(site, 1103);
	::operator delete(gone, static_cast<std::size_t>(1103));
	truth_drop(site, 1103);
}

SITE void cxx_string(void *room)
{
	CountingString *kept = immortal<CountingString>(room, Counting<char>(TRUTH_HEAP()));

	kept->assign(1108, 'x');
}

SITE void cxx_vector(void *room)
{
	CountingVector *kept = immortal<CountingVector>(room, Counting<long>(TRUTH_HEAP()));

	for (long i = 0; i < 101; i++)
		kept->push_back(i);
}

SITE void cxx_map(void *room)
{
	using Allocator = Counting<std::pair<const int, double>>;
	CountingMap *kept = immortal<CountingMap>(room, Allocator(TRUTH_HEAP()));

	for (int i = 0; i < 103; i++)
		(*kept)[i] = i;
	for (int i = 0; i < 103; i += 2)
		kept->erase(i);
}
}

int main()
{
	alignas(16) static char rooms[3][n_rounds][64];

	static_assert(sizeof(CountingString) <= 64 && sizeof(CountingVector) <= 64 &&
			      sizeof(CountingMap) <= 64,
		      "a container does not fit its room");
	truth_start();
	for (int i = 0; i < n_rounds; i++) {
		cxx_new();
		cxx_new_array();
		cxx_new_nothrow();
		cxx_new_aligned();
		cxx_new_deleted();
		cxx_sized_delete();
		cxx_string(rooms[0][i]);
		cxx_vector(rooms[1][i]);
		cxx_map(rooms[2][i]);
		escape(depot::Shelf<int>::stock(109));
	}
	truth_report(true, 0, "");
	truth_stay();
}
