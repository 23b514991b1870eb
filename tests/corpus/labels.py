"""The programs of the corpus and their right answers: which functions leak in each, and what is bounded.

The open half may be looked at while the analysis is changed. The held half is for the final measurement alone: neither
its programs nor its results are looked at before (``benchmarks/accuracy.py --half held``). The blind half was written
by somebody who had not seen the analysis; it is measured once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Half = Literal["open", "held", "blind"]
Language = Literal["C", "C++", "Java", "Rust", "Python"]


@dataclass(frozen=True, slots=True)
class Program:
    """One program of the corpus.

    Attributes:
        scenario: Its first argument; unique within a language.
        leaks: A row for each leak: the names that are the right answer, as the truth that the program prints calls it
            first. A suspect is right if its ``name`` or ``called_by`` is one of them.
        about: What it does.
        pace: Seconds; the program's second argument.
        window: Of the trace, in paces.
    """

    language: Language
    scenario: str
    half: Half
    leaks: tuple[tuple[str, ...], ...]
    about: str
    pace: float = 1.0
    window: float = 12.0

    @property
    def name(self) -> str:
        """How the program is called on the command line and in results."""
        return f"{self.language.lower()}:{self.scenario}"


def _leak(language: Language, half: Half, scenario: str, about: str, *names: str, pace: float = 1.0) -> Program:
    return Program(language, scenario, half, tuple((name,) for name in names), about, pace)


def _bounded(language: Language, half: Half, scenario: str, about: str) -> Program:
    return Program(language, scenario, half, (), about)


PROGRAMS = (
    _leak("C", "open", "slow_leak", "4 sessions a pace under churn, 1 of 100 blocks", "session_open"),
    _leak("C", "open", "fast_leak", "3 MB a pace", "frame_capture"),
    _leak("C", "open", "burst_leak", "150 of 500 rows each two paces", "import_rows"),
    _leak("C", "open", "one_in_thousand", "1 in 1,000 of a site's blocks", "message_parse"),
    _leak(
        "C", "open", "two_behind_one", "two callers of one constructor leak, one does not", "config_reload", "feed_poll"
    ),
    _leak("C", "open", "growing_buffer", "one buffer, reallocated by halves", "journal_append"),
    _bounded("C", "open", "lru_cache", "LRU cache of 400 blocks"),
    _bounded("C", "open", "ttl_cache", "entries live for two paces"),
    _bounded("C", "open", "double_buffering", "two buffers of 3 MiB that take turns"),
    _leak("C", "open", "filled_and_leaks", "1 of 20 pages, at the place where a cache fills first", "page_load"),
    _leak("C", "open", "tail_calls", "by a function that ends in a jump to its helper", "event_add"),
    _leak("C", "open", "error_episodes", "half a pace of each two", "failure_note"),
    _bounded("C", "open", "wavering_sessions", "sessions of very different lifetimes, in a number that wavers"),
    _leak("C", "held", "few_big_blocks", "one block of 700,000 bytes a pace", "snapshot_take"),
    _leak("C", "held", "many_paths", "one leak over 24 paths", "intern_string"),
    _leak("C", "held", "mapped_leak", "mmap without munmap, beside one that unmaps", "segment_map"),
    _leak("C", "held", "one_in_ten_thousand", "1 in 10,000 of a site's blocks", "event_decode", pace=2.0),
    _leak("C", "held", "one_in_hundred_thousand", "1 in 100,000 of a site's blocks", "record_scan", pace=5.0),
    _leak("C", "held", "strdup_leak", "strdup in six threads", "setting_read"),
    _bounded("C", "held", "pool_high_water", "pool of connections with a high-water mark"),
    _bounded("C", "held", "periodic_batch", "a report over one pace, thrown away, each two paces"),
    _bounded("C", "held", "bounded_ring", "ring of 300 log lines of all sizes"),
    _leak("C++", "open", "map_of_threads", "std::map of strings, filled by eight threads", "OrderBook::remember"),
    _leak("C++", "open", "shared_cycle", "cycle of shared pointers", "Graph::link"),
    _leak("C++", "open", "many_handlers", "one leak over 32 instances of a template", "Registry::intern"),
    _leak("C++", "open", "event_log", "std::vector of strings that only grows", "EventLog::append"),
    _bounded("C++", "open", "lru_list", "LRU cache of a list and a map"),
    _bounded("C++", "open", "warm_up", "250 pages, each loaded once"),
    _bounded("C++", "open", "growing_pool", "pool that grows to twelve threads"),
    _leak("C++", "open", "callbacks", "std::function in a hash map, never taken off", "Bus::subscribe"),
    _leak("C++", "open", "reclaimed", "freed all at once each two paces, but for a twentieth", "Reclaimer::retire"),
    _bounded("C++", "open", "ranking", "the hundred best, and a ring of the last"),
    _leak("C++", "held", "decoder_threads", "one frame of 50, in each of twelve threads", "Decoder::decode"),
    _leak("C++", "held", "subscribers", "std::function objects never unsubscribed", "EventBus::subscribe"),
    _leak("C++", "held", "thrown_away", "a buffer is forgotten where an exception is thrown", "Parser::parse"),
    _leak("C++", "held", "sawtooth_with_residue", "a batch comes and goes, a seal of each stays", "Aggregator::seal"),
    _bounded("C++", "held", "ttl_map", "entries live for a pace and a half"),
    _bounded("C++", "held", "arena_retention", "arenas that keep their chunks"),
    _bounded("C++", "held", "bursty_queue", "mailbox that fills in bursts"),
    _leak("Java", "open", "direct_leak", "direct buffers kept in a list", "OrderIndex.retain"),
    _leak("Java", "open", "deflaters", "Deflaters never ended, beside some that are", "LogShipper.compress"),
    _leak(
        "Java", "open", "executor_leak", "direct buffers, in a lambda of a pool of four threads", "ReportService.render"
    ),
    _bounded("Java", "open", "lru_off_heap", "LRU cache of Unsafe memory"),
    _bounded("Java", "open", "classes_and_jit", "hidden classes for three paces, and their compilation"),
    _leak("Java", "open", "classes_leak", "a hidden class a tick, each kept by an instance", "ScriptEngine.compile"),
    _leak("Java", "open", "deployments", "a class loader a tick, kept, its code compiled", "Deployer.deploy"),
    _bounded("Java", "open", "hot_code", "a class a tick is compiled, of 3,000 that are loaded"),
    _bounded("Java", "open", "collector_sawtooth", "direct buffers that only the collector frees"),
    _bounded("Java", "open", "bounded_outbox", "queue of 120 blocks"),
    _leak("Java", "open", "pinned_pages", "1 in 20 direct buffers, the collector frees the rest", "PageCache.fetch"),
    _leak("Java", "open", "futures", "1 in 8 blocks, in a lambda of a CompletableFuture", "Tickets.lambda$issue$0"),
    _leak("Java", "held", "inflaters", "one of two callers forgets to end its Inflaters", "Codecs.restore"),
    _leak("Java", "held", "mapped_files", "mapped files never unmapped", "Segments.open"),
    _leak("Java", "held", "one_in_forty", "one block in 40 of Unsafe memory", "OffHeapMap.put"),
    _leak("Java", "held", "thread_leak", "timers never cancelled", "Reminders.schedule"),
    _bounded("Java", "held", "leases", "Unsafe memory that lives for two paces"),
    _bounded("Java", "held", "buffer_pool", "pool of direct buffers with a high-water mark"),
    _bounded("Java", "held", "worker_pool", "pool that grows to ten threads"),
    _leak("Rust", "open", "map_leak", "HashMap of vectors", "SessionStore::insert"),
    _leak("Rust", "open", "boxes", "Box::leak of strings", "intern_name"),
    _bounded("Rust", "open", "bounded_queue", "queue of 250 vectors"),
    _leak("Rust", "open", "cycles", "cycle of Rc, each third", "trace_span"),
    _leak("Rust", "open", "slow_reader", "channel that is read at half the rate", "Lines::publish"),
    _leak("Rust", "held", "backlog", "channel that is filled faster than emptied", "Pipeline::submit"),
    _leak("Rust", "held", "cycle", "cycle of Rc", "Tree::attach"),
    _bounded("Rust", "held", "two_screens", "two buffers of 1.2 MB that take turns"),
    _leak("Python", "open", "tokens", "an extension forgets PyMem_RawMalloc blocks", "tokenize"),
    _bounded("Python", "open", "memo", "200 slots of an extension"),
    _leak("Python", "held", "references", "a reference too many to bytes objects", "encode_frame"),
    _leak("Python", "held", "cursor_and_rows", "two functions of an extension leak", "open_cursor", "read_row"),
    _bounded("Python", "held", "buffers", "pool of buffers of an extension"),
    _leak("C", "blind", "tls_handshakes", "state of the handshakes that fail, 1 of 25", "handshake_begin"),
    _leak(
        "C",
        "blind",
        "dns_negative",
        "negative answers that never expire, 60 in a pace, 2 small blocks each",
        "negative_store",
    ),
    _leak("C", "blind", "metrics_labels", "a series for each customer, from three threads", "series_register"),
    _leak(
        "C", "blind", "codec_reinit", "40 to 96 kB for each change of resolution, in three threads", "scaler_configure"
    ),
    _bounded("C", "blind", "slab_classes", "slabs of five sizes, 72 pages at most"),
    _bounded("C", "blind", "config_reloads", "a tree of 300 routes replaced twice in a pace, freed a pace later"),
    _bounded("C", "blind", "retry_wheel", "deliveries that wait 0.1 to 1.6 paces for up to five attempts"),
    Program(
        "C++",
        "prepared_statements",
        "blind",
        (("SearchDao::find", "Connection::prepare"),),
        "one of two callers has another text for each statement",
    ),
    _leak("C++", "blind", "log_context", "1 of 30 requests leaves its context, in four threads", "LogContext::push"),
    Program(
        "C++",
        "arena_escapes",
        "blind",
        (("PaymentHandler::charge", "RequestArena::allocate"),),
        "an arena for each request; 1 of 36 is kept whole",
    ),
    Program(
        "C++",
        "schema_registry",
        "blind",
        (("SchemaRegistry::fetch", "SchemaNode::parse"),),
        "a cache that never hits keeps trees of a recursive parser",
    ),
    _bounded("C++", "blind", "histograms", "40 histograms of six windows of half a pace"),
    _bounded("C++", "blind", "breathing_pool", "20 to 80 connections, up and down in three paces"),
    _bounded("C++", "blind", "dedupe_generations", "two generations of a hash set, a pace and a half each"),
    Program(
        "Java",
        "thumbnails",
        "blind",
        (("Thumbnailer.render", "NativeImage.decode"),),
        "native pictures closed on the way of success alone, 1 of 20 fails",
    ),
    _leak("Java", "blind", "tenant_scratch", "ThreadLocal buffers whose values hold their keys", "TenantCodec.scratch"),
    _leak("Java", "blind", "selectors", "a Selector for each attempt to connect, never closed", "FeedClient.reconnect"),
    Program(
        "Java",
        "timers_and_log",
        "blind",
        (("LabelledTimers.timer",), ("AccessLog.rollover",)),
        "a timer for each customer, 1,600 bytes; a full log buffer a pace, 700 kB",
    ),
    _bounded("Java", "blind", "compaction", "segments merged into a new level, the old one freed after"),
    _bounded("Java", "blind", "codec_warm_up", "six workers, each with codecs from its first message on"),
    _bounded("Java", "blind", "response_cache", "cache by bytes and age, half of it invalidated each three paces"),
    _leak("Rust", "blind", "weak_subscribers", "a Weak for each subscriber that is gone", "Hub::subscribe"),
    _leak("Rust", "blind", "cancelled_reads", "1 of 20 raw pointers is never taken back, 24 bytes", "submit_read"),
    _bounded("Rust", "blind", "admitting_cache", "cache of 6 MB that admits by frequency"),
    Program(
        "Python",
        "broken_documents",
        "blind",
        (("decode_document", "parse_value"),),
        "nodes of a recursive parser, forgotten where it raises, 1 of 15",
    ),
    _leak("Python", "blind", "streams", "capsules without a destructor, beside some with one", "open_stream"),
    _bounded("Python", "blind", "column_batches", "columns that grow by doubling; the last four batches stay"),
)
