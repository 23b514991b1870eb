"""Pools inside of programs: whoever makes one take a chunk from the system need not keep what is in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from nativeleak.frames.display import bare
from nativeleak.frames.patterns import Pattern
from nativeleak.model import Frame, FrameKind


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool that takes memory in chunks.

    Attributes:
        name: For people: ``GLib's slices``.
        switch: What makes the program do without it, or else shows what it holds; empty where nothing is known.
    """

    name: str
    switch: str


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    pool: Pool
    functions: Pattern
    unless: Pattern | None = None
    """Functions of the pool that pass large requests on to the system."""
    leaf: Pattern | None = None
    """The call by which it takes chunks; other calls below it are no chunks."""
    modules: Pattern | None = None
    """Objects whose nameless code makes this call for the pool alone."""


def _row(name: str, switch: str, functions: str, unless: str = "", leaf: str = "", modules: str = "") -> _Row:
    return _Row(
        Pool(name, switch),
        Pattern(rf"(?:{functions})"),
        Pattern(rf"(?:{unless})") if unless else None,
        Pattern(rf"(?:{leaf})") if leaf else None,
        Pattern(rf"(?:{modules})") if modules else None,
    )


_MAPS: Final = r"_*mmap(?:64)?|mremap|s?brk|_*syscall"
_NO_NETTY: Final = "-Dio.netty.allocator.type=unpooled"
_POOLS: Final = (
    _row("Arrow's pool in Netty", "-Darrow.allocation.manager.type=Unsafe",
         r"io\.netty\.buffer\.PooledByteBufAllocatorL\b.*", r".*newUnpooledChunk|.*\.allocateHuge"),
    _row("Vert.x' pool in Netty", "-Dio.netty.allocator.numDirectArenas=0",
         r"io\.vertx\.core\.(?:buffer\.impl|net\.impl)\.(?:PartialPooled|Vertx)ByteBufAllocator.*",
         r".*newUnpooledChunk|.*\.allocateHuge"),
    _row("Netty's buffer pool", _NO_NETTY,
         r"io\.netty\.buffer\.(?:PoolArena|PoolChunk|PoolThreadCache|PooledByteBufAllocator)\b.*",
         r".*newUnpooledChunk|.*PoolArena.*\.allocateHuge"),
    _row("Netty's adaptive buffer pool", _NO_NETTY, r"io\.netty\.buffer\.Adaptive\w+.*", r".*\.allocateFallback"
                                                                                         r"|.*allocateDirectly"),
    _row("Jetty's buffer pool", "new ByteBufferPool.NonPooling(), or NullByteBufferPool before Jetty 12",
         r"org\.eclipse\.jetty\.io\.\w*(?:ByteBufferPool|BufferPool)\w*(?:\$\w+)*\.(?!NonPooling).*",
         r".*(?:NonPooling|NullByteBufferPool).*"),
    _row("GLib's slices", "G_SLICE=always-malloc",
         r"g_slice_\w+|allocator_add_slab|slab_allocator_\w+|magazine_\w+|thread_memory_magazine\w*"
         r"|allocator_memalign"),
    _row("Python's small objects", "PYTHONMALLOC=malloc",
         r"new_arena|allocate_from_new_pool|_Py(?:Object|Mem)_Arena(?:Alloc|Mmap)|_?PyObject_(?:Malloc|Calloc"
         r"|Realloc|New|GC_\w+)|pymalloc_alloc"
         r"|_PyMem_ArenaAlloc|arena_map_\w+", leaf=_MAPS, modules=r"(?:lib)?python[\d.]+\w*(?:\.so.*)?"),
    _row("PHP's memory manager", "USE_ZEND_ALLOC=0", r"_?zend_mm_\w+|_e(?:malloc|calloc|realloc)\w*"
                                                     r"|alloc_globals_ctor|start_memory_manager",
         r"zend_mm_\w*huge\w*|_e\w+_huge", _MAPS, r"(?:lib)?php(?:-\w+)?[\d.]*(?:\.so.*)?"),
    _row("PostgreSQL's memory contexts", "no switch; shown by SELECT pg_log_backend_memory_contexts(PID)",
         r"AllocSet\w+|MemoryContext(?:Alloc\w*|Create\w*|Strdup)|palloc\w*|repalloc\w*|pstrdup|pnstrdup"
         r"|Slab(?:Alloc|ContextCreate)\w*"
         r"|Generation(?:Alloc|ContextCreate)\w*|Bump(?:Alloc|ContextCreate)\w*"),
    _row("APR's pools", "no switch; APR built with --enable-pool-debug", r"apr_p\w*alloc\w*|apr_palloc\w*"
                                                                         r"|apr_pool_\w+|allocator_alloc"
                                                                         r"|apr_allocator_alloc|apr_pstr\w+"),
    _row("nginx' pools", "no switch; freed with their request or connection",
         r"ngx_(?:palloc\w*|pnalloc|pcalloc|pmemalign|create_pool|reset_pool|array_(?:create|push\w*)|list_push"
         r"|slab_\w+)"),
    _row("Ruby's heap of objects", "no switch; shown by ObjectSpace.memsize_of_all",
         r"heap_(?:page_\w+|assign_page\w*|prepare\w*|increment|add_pages?\w*|allocate\w*)|gc_aligned_malloc"
         r"|rb_aligned_malloc|objspace_\w*heap\w*"),
    _row("V8's heap", "--max-old-space-size, shown by a heap snapshot: node --inspect",
         r"v8::internal::(?:MemoryAllocator|PagedSpace\w*|NewSpace|OldLargeObjectSpace|LargeObjectSpace|CodeRange"
         r"|VirtualMemory|BoundedPageAllocator|SemiSpace)::.*"
         r"|v8::base::(?:BoundedPageAllocator|RegionAllocator|OS)::.*|node::NodePlatform::.*page.*", leaf=_MAPS),
    _row("Go's heap", "GOMEMLIMIT, shown by pprof", r"x_cgo_mmap|runtime\..+",
         leaf=rf"{_MAPS}|runtime\.(?:\w*mmap|sysMmap)(?:\.abi0)?|(?:\w+/)*syscall\.(?:Rawsy|Sy)scall6(?:\.abi0)?"),
    _row("protobuf's arena", "no switch; freed with its Arena",
         r"google::protobuf::(?:internal::)?(?:\w*Arena\w*)::.*|google::protobuf::internal::AllocateAtLeast"),
    _row("std::pmr's pool", "std::pmr::new_delete_resource()",
         r"std::pmr::(?:__pool_resource|\w*pool_resource|monotonic_buffer_resource|\w+_Pool)::.*"),
    _row("Boost's pool", "no switch; BOOST_POOL_NO_MT does not part it", r"boost::(?:pool|object_pool"
                                                                         r"|singleton_pool|fast_pool_allocator"
                                                                         r"|simple_segregated_storage)(?:::.*|$)"),
    _row("an obstack", "", r"_?obstack_(?:newchunk|begin\w*|allocated_p|make_room)"),
    _row("libstdc++'s pool allocator", "GLIBCXX_FORCE_NEW=1", r"__gnu_cxx::(?:__pool_alloc\w*|__mt_alloc|__pool"
                                                              r"|bitmap_allocator|free_list)::.*"),
    _row("jemalloc", "shown by MALLOC_CONF=stats_print:true",
         r"(?:_?rjem_|je_|_rjem_je_)?(?:os_pages_map|pages_map|extent_\w+|ehooks_\w+|pac_\w+|pa_alloc|hpa_\w+"
         r"|base_block_alloc|base_map|arena_extent\w*)", leaf=_MAPS),
    _row("mimalloc", "shown by MIMALLOC_SHOW_STATS=1", r"_?mi_\w+|\w+_mi_\w+", leaf=_MAPS),
    _row("tcmalloc", "shown by MALLOCSTATS=2", r"tcmalloc::.*|TCMalloc_\w+|tc_\w+|MmapSysAllocator::.*"
                                               r"|SbrkSysAllocator::.*", leaf=_MAPS),
)  # fmt: skip


@lru_cache(1 << 16)
def _rows_of(function: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    name = bare(function)
    here = tuple(index for index, row in enumerate(_POOLS) if row.functions.fullmatch(name))
    past = tuple(index for index, row in enumerate(_POOLS) if row.unless is not None and row.unless.fullmatch(name))
    return here, past


def is_pool(function: str) -> bool:
    """Whether a function belongs to a pool that is known by name."""
    return bool(_rows_of(function)[0])


def pool_of(frames: Sequence[Frame], end: int) -> Pool | None:
    """The pool that took a chunk, None where none did.

    Args:
        frames: Leaf first.
        end: Index of the first frame that is not looked at.
    """
    seen: set[int] = set()
    passed: set[int] = set()
    for frame in frames[:end]:
        here, past = _rows_of(frame.function)
        seen.update(here)
        passed.update(past)
    if len(frames) > 1 and frames[1].kind is FrameKind.UNRESOLVED:
        seen.update(i for i, row in enumerate(_POOLS) if row.modules and row.modules.fullmatch(frames[1].module or ""))
    for index in sorted(seen - passed):
        row = _POOLS[index]
        if row.leaf is None or row.leaf.fullmatch(bare(frames[0].function)):
            return row.pool
    return None
