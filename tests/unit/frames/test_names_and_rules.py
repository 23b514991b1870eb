"""Names as readers see them, words of helpers, pools, kinds of memory and users' libraries."""

from __future__ import annotations

import pytest

from nativeleak.frames.display import display_name, frame_name
from nativeleak.frames.headline import headline
from nativeleak.frames.libraries import BUILT_IN
from nativeleak.frames.owners import owner_of_stack, purpose_of_stack, request_of_stack
from nativeleak.frames.roles import Role, role
from nativeleak.frames.words import is_constructor, is_helper
from nativeleak.model import Frame, FrameKind, Owner
from nativeleak.runtimes.hotspot.spec import HOTSPOT

TABLES = (HOTSPOT.frames,)
JAVA = FrameKind.JAVA_COMPILED
C = "libc.so.6"
J = "libjvm.so"


def native(function, module=None):
    return Frame(function, module, 0x1000, 0)


def java(function):
    return Frame(function, None, 0x1000, 0, JAVA)


def nameless(module, offset=0x135E):
    return Frame(f"0x7f00 [{module}+{offset:#x}]", module, 0x7F00, offset, FrameKind.UNRESOLVED)


def head(*frames, libraries=BUILT_IN):
    found = headline(frames, TABLES, libraries)
    assert found is not None
    caller = None if found.for_index is None else frame_name(frames[found.for_index])
    return frame_name(frames[found.index]), caller


@pytest.mark.parametrize(
    ("function", "shown"),
    [
        ("void std::vector<double, std::allocator<double> >::_M_realloc_insert<double>(double&&)",
         "std::vector<double>::_M_realloc_insert"),
        ("Orders::remember(int, std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char>> "
         "const&)",
         "Orders::remember"),
        ("std::__cxx11::basic_string<char, std::char_traits<char>, std::allocator<char>>::_M_assign(int)",
         "std::string::_M_assign"),
        ("billing::(anonymous namespace)::append_ledger_row(int)", "billing::(anonymous namespace)::append_ledger_row"),
        ("main::foo(int)::{lambda(int)#1}::operator()(int) const", "main::foo::{lambda(int)#1}::operator()"),
        ("std::ostream& operator<< <std::char_traits<char> >(std::ostream&, char)", "operator<<"),
        ("<main::Sessions as main::Store>::remember", "<main::Sessions as main::Store>::remember"),
        ("alloc::vec::Vec<T,A>::push::h0123456789abcdef", "alloc::vec::Vec<T,A>::push"),
        ("github.com/acme/bar.(*T).Method", "bar.(*T).Method"),
        ("LazyCompile:*keepBody /srv/server.js:12:3", "keepBody (server.js:12:3)"),
        ("posix_memalign@@GLIBC_2.2.5", "posix_memalign"),
        ("Foo::operator bool() const", "Foo::operator bool"),
        ("operator new[](unsigned long, std::nothrow_t const&)", "operator new[]"),
        ("", ""),
    ],
)  # fmt: skip
def test_display_name_has_no_types_and_no_noise(function, shown):
    assert display_name(function) == shown


def test_display_name_of_java_is_class_and_method():
    assert display_name("com.acme.Leaker$Gzip.compress", JAVA) == "Leaker$Gzip.compress"
    assert display_name("java.util.zip.Deflater.<init>", JAVA) == "Deflater.<init>"


@pytest.mark.parametrize(
    "function",
    [
        "xmalloc", "zmalloc", "safe_malloc", "my_calloc", "mem_alloc", "buf_grow", "new_node", "node_new",
        "alloc_node", "pool_get", "get_from_pool", "str_dup", "xstrdup", "reserve", "ensure_capacity",
        "resize_table", "bufferAlloc", "MemoryContextAllocZeroAligned", "__zend_malloc", "g_slice_alloc",
        "sqlite3MemMalloc", "Arena::allocate", "List::newNode", "grow_table", "kmemdup", "palloc_large",
        "emalloc_checked", "growBuffer", "reallocate_items", "mem_pool_alloc", "zrealloc", "xreallocarray",
        "util_malloc_or_die", "buffer_reserve",
    ],
)  # fmt: skip
def test_is_helper_knows_names_that_say_memory(function):
    assert is_helper(function)


@pytest.mark.parametrize(
    "function",
    [
        "tls_context_new", "session_open", "Orders::remember", "Cache::put", "append_row", "parse", "main",
        "handle_request", "pack_batch", "lookupTenant", "Leaker$ChunkPool.newChunk", "event_new", "meta_new",
        "tokenize", "load_duplicates", "Checksum", "tree_insert", "com.acme.Pool.step", "growth_report_line",
    ],
)  # fmt: skip
def test_is_helper_leaves_the_program_alone(function):
    assert not is_helper(function)


def test_is_constructor_knows_names_that_make_objects():
    assert is_constructor("tls_context_new")
    assert is_constructor("shop::Item::Item(int)")
    assert not is_constructor("serve_connection")


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        # A helper is passed over where a function of the program stands above it, not where only main does.
        ([native("malloc", C), native("buf_grow", "app"), native("load", "app"), native("main", "app")],
         ("load", None)),
        ([native("malloc", C), native("xmalloc", "app"), native("main", "app")], ("main", None)),
        ([native("malloc", C), native("alloc_user", "app"), native("main", "app")], ("alloc_user", None)),
        ([native("malloc", C), native("tls_new", "app"), native("serve", "app")], ("tls_new", "serve")),
        # Programs without symbols.
        ([native("malloc", C), nameless("app"), native("__libc_start_call_main", C), native("_start", "app")],
         ("app+0x135e", None)),
        ([native("malloc", C), nameless("app"), native("palloc", "app"), native("plan", "app")], ("plan", None)),
        # Interpreters: an extension is nearer than the loop.
        ([native("malloc", C), native("tokenize", "fastparse.cpython-311-x86_64-linux-gnu.so"),
          native("_PyEval_EvalFrameDefault", "python3.11")], ("tokenize", None)),
        # Libraries.
        ([native("malloc", C), native("CRYPTO_zalloc", "libcrypto.so.3"), native("SSL_new", "libssl.so.3"),
          native("serve", "app")], ("serve", None)),
        ([native("malloc", C), native("rocksdb::Arena::AllocateNewBlock(unsigned long)", "librocksdb.so.7.8"),
          native("rocksdb::MemTable::Add(int)", "librocksdb.so.7.8"), native("start_thread", C)],
         ("rocksdb::MemTable::Add", None)),
        # A native method by its Java name, with its caller; stubs and lambda forms never.
        ([native("malloc", C), native("os::malloc(unsigned long)", J), native("jni_GetStringUTFChars", J),
          nameless("libcodec.so"), java("app.Codec.encode"), java("app.Translator.translate")],
         ("Codec.encode", "Translator.translate")),
        ([native("mmap", C), native("Java_sun_nio_ch_FileChannelImpl_map0", "libnio.so"),
          java("sun.nio.ch.FileChannelImpl.map"), java("java.lang.invoke.LambdaForm$MH.invoke"),
          java("app.Index.open")],
         ("Index.open", None)),
        ([native("malloc", C), native("foo@plt", "app"), native("work", "app")], ("work", None)),
        ([native("malloc", C), java("io.netty.buffer.PoolArena.allocate"), java("org.springframework.web.X.handle"),
          java("app.Handler.read")], ("Handler.read", None)),
    ],
)  # fmt: skip
def test_headline_names_what_allocates_and_for_whom(frames, expected):
    assert head(*frames) == expected


@pytest.mark.parametrize(
    ("frames", "pool", "switch"),
    [
        ([native("posix_memalign", C), native("g_slice_alloc", "libglib-2.0.so.0")], "GLib's slices",
         "G_SLICE=always-malloc"),
        ([native("mmap", C), nameless("python3.11"), native("_PyObject_Malloc", "python3.11")],
         "Python's small objects", "PYTHONMALLOC=malloc"),
        ([native("malloc", C), native("_PyObject_Malloc", "python3.11")], None, None),
        ([native("mmap", C), native("zend_mm_chunk_alloc", "php"), native("_emalloc", "php")],
         "PHP's memory manager", "USE_ZEND_ALLOC=0"),
        ([native("malloc", C), java("io.netty.buffer.PoolArena$DirectArena.newChunk")],
         "Netty's buffer pool", "-Dio.netty.allocator.type=unpooled"),
        ([native("malloc", C), java("io.netty.buffer.PoolArena$DirectArena.newUnpooledChunk"),
          java("io.netty.buffer.PoolArena.allocateHuge")], None, None),
        ([native("malloc", C), native("AllocSetAlloc", "postgres"), native("palloc", "postgres")],
         "PostgreSQL's memory contexts", "no switch; shown by SELECT pg_log_backend_memory_contexts(PID)"),
        ([native("mmap", C), native("_rjem_je_os_pages_map", "app")], "jemalloc",
         "shown by MALLOC_CONF=stats_print:true"),
    ],
)  # fmt: skip
def test_headline_says_which_pool_took_a_chunk(frames, pool, switch):
    found = headline([*frames, native("work", "app")], TABLES)
    assert found is not None
    assert (found.pool and found.pool.name, found.pool and found.pool.switch) == (pool, switch)


@pytest.mark.parametrize(
    ("frames", "what"),
    [
        ([native("malloc", C), native("deflateInit2_", "libz.so.1")], "zlib stream"),
        ([native("malloc", C), native("operator new(unsigned long)", "libstdc++.so.6")], "C++ new"),
        ([native("malloc", C), native("operator new(unsigned long)", "libstdc++.so.6"),
          native("void std::vector<int>::_M_realloc_insert<int>(int)", "app")], "vector growth"),
        ([native("mmap", C)], "mmap"),
        ([native("mmap", C), native("pthread_create", C)], "thread stack"),
        ([native("malloc", C), native("xmlNewDoc", "libxml2.so.2")], "XML"),
        ([native("malloc", C), java("jdk.internal.misc.Unsafe.allocateMemory0"), java(
         "java.nio.DirectByteBuffer.<init>")],
         "direct buffer"),
        ([native("malloc", C)], None),
    ],
)  # fmt: skip
def test_headline_says_the_kind_of_memory(frames, what):
    found = headline([*frames, native("work", "app")], TABLES)
    assert found is not None
    assert found.what == what


def test_headline_names_the_tool_where_an_interpreters_functions_are_not_shown():
    loop = native("_PyEval_EvalFrameDefault", "python3.11")
    found = headline([native("malloc", C), native("PyBytes_FromStringAndSize", "python3.11"), loop], TABLES)
    assert found is not None
    assert found.note is not None
    assert "py-spy" in found.note
    assert found.what == "Python bytes"
    plain = headline([native("malloc", C), native("work", "app")], TABLES)
    assert plain is not None
    assert plain.note is None


@pytest.mark.parametrize(
    ("pattern", "frame"),
    [
        ("com.acme.framework.*", java("com.acme.framework.Pool.fill")),
        ("libacme*.so*", native("fill", "libacme-2.so.1")),
        ("acme::*", native("acme::Pool<int>::fill(int)", "app")),
    ],
)
def test_libraries_of_the_user_are_passed_over(pattern, frame):
    frames = [native("malloc", C), frame, native("work", "app")]
    assert head(*frames)[0] == frame_name(frame)
    assert head(*frames, libraries=BUILT_IN.extended([pattern]))[0] == "work"


def test_libraries_pattern_with_an_exclamation_mark_names_the_library_again():
    frames = [native("malloc", C), native("rocksdb::Cache::Insert(int)", "librocksdb.so"), native("work", "app")]
    assert head(*frames)[0] == "work"
    assert head(*frames, libraries=BUILT_IN.extended(["!rocksdb::*"]))[0] == "rocksdb::Cache::Insert"


def test_role_of_frames():
    assert role(native("malloc", C), TABLES) is Role.ALLOCATOR
    assert role(native("CodeHeap::expand_by(int)", J), TABLES) is Role.RUNTIME
    assert role(native("std::thread::_State::_M_run()", "app"), TABLES) is Role.PASSTHROUGH
    assert role(java("java.util.concurrent.ThreadPoolExecutor.runWorker"), TABLES) is Role.PASSTHROUGH
    assert role(java("java.util.HashMap.put"), TABLES) is Role.LIBRARY
    assert role(nameless("app"), TABLES) is Role.UNNAMED
    assert role(nameless("libz.so.1.2"), TABLES) is Role.LIBRARY
    assert role(native("work", "app"), TABLES) is Role.PROGRAM
    assert role(native("start_job", "app"), TABLES) is Role.PROGRAM
    assert role(native("_start_c", "app"), TABLES) is Role.PASSTHROUGH


@pytest.mark.parametrize(
    ("inside", "outside", "owner", "request_"),
    [
        (["jni_GetStringUTFChars"], nameless("libcodec.so"), Owner.PROGRAM, "JNI string"),
        (["JNIHandles::make_global(Handle)", "jni_NewGlobalRef"], nameless("a.so"), Owner.PROGRAM, "global reference"),
        (["JavaThread::JavaThread(int)", "JVM_StartThread"], java("java.lang.Thread.start0"), Owner.PROGRAM, "thread"),
        (["SymbolTable::do_add(int)", "JVM_DefineClassWithSource"], java("app.Loader.define"), Owner.PROGRAM,
         "class metadata"),
        ([], java("jdk.internal.misc.Unsafe.allocateMemory0"), Owner.PROGRAM, None),
        (["CompileBroker::compile_method(int)"], java("app.Hot.loop"), Owner.RUNTIME, None),
        (["CompileBroker::compiler_thread_loop()"], native("start_thread", C), Owner.RUNTIME, None),
        (["Threads::create_vm(int)"], native("JavaMain", "libjli.so"), Owner.RUNTIME, None),
    ],
)  # fmt: skip
def test_owner_of_the_jvms_memory_is_who_asked(inside, outside, owner, request_):
    frames = [
        native("malloc", C),
        native("os::malloc(unsigned long)", J),
        *(native(each, J) for each in inside),
        outside,
    ]
    assert owner_of_stack(frames, TABLES) is owner
    if owner is Owner.PROGRAM:
        assert request_of_stack(frames, TABLES) == request_


@pytest.mark.parametrize(
    ("functions", "purpose"),
    [
        (["Arena::grow(int)", "LinearScan::create_interval(int)", "JavaThread::run()"], "JIT compilers"),
        (["CodeHeap::expand_by(int)", "nmethod::new_nmethod(methodHandle const&)"], "code cache"),
        (["metaspace::Metachunk::commit(int)", "JavaThread::run()"], "metaspace and classes"),
        (["Unknown::thing(methodHandle const&)", "JavaThread::run()"], "other"),
        (["G1CodeRootSet::add(nmethod*)", "nmethod::oops_do(int)"], "garbage collector"),
        (["JavaThread::JavaThread(bool)"], "threads"),
        (["os::create_thread(Thread*)"], "thread stacks"),
    ],
)
def test_purpose_of_the_jvms_memory_is_that_of_the_first_function(functions, purpose):
    frames = [native("malloc", C), native("os::malloc(unsigned long)", J), *(native(each, J) for each in functions)]
    assert purpose_of_stack(frames, TABLES) == purpose
