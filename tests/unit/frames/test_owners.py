"""On whose behalf memory is taken and given back, told by the names on a stack."""

from __future__ import annotations

import re

import pytest

from nativeleak.frames.owners import loading_of_stack, owner_of_stack, purpose_of_stack, unmapper_of_stack
from nativeleak.frames.tables import RuntimeFrames
from nativeleak.model import Frame, FrameKind, Owner
from nativeleak.runtimes.hotspot.spec import HOTSPOT

C = "libc.so.6"
MADE_UP = RuntimeFrames(
    "libmadeup.so",
    requests=(("text", re.compile(r"mu_request\w*$")),),
    purposes=(("code", re.compile(r"mu_jit")), ("heap", re.compile(r"mu_"))),
)
TABLES = (HOTSPOT.frames, MADE_UP)


def frames(text):
    """Frames of ``function@module``, leaf first."""
    return [Frame(*each.split("@"), 0x1000, 0) for each in text.split()]


@pytest.mark.parametrize(
    ("stack", "owner"),
    [
        (f"munmap@{C} work@app start_thread@{C} clone3@{C}", Owner.PROGRAM),
        (f"munmap@{C} __nptl_free_stacks@{C} __nptl_deallocate_stack@{C} start_thread@{C} clone3@{C}", Owner.C_LIBRARY),
        (f"munmap@{C} 0x7f00@{C} 0x7f01@{C} start_thread@{C}", Owner.C_LIBRARY),
        (f"munmap@{C} __nptl_free_stacks@{C} __pthread_clockjoin_ex@{C} work@app main@app", Owner.C_LIBRARY),
        ("munmap@app __nptl_free_stacks.part.0@app pthread_join@app work@app main@app", Owner.C_LIBRARY),
        ("__unmapself@ld-musl-x86_64.so.1 pthread_exit@ld-musl-x86_64.so.1", Owner.C_LIBRARY),
        (f"munmap@{C} work@app pthread_join@{C} main@app", Owner.PROGRAM),
        (f"munmap@{C} _dl_unmap@ld-linux-x86-64.so.2 dlclose@{C} work@app main@app", Owner.PROGRAM),
        (f"munmap@{C} os::release_memory@libjvm.so start_thread@{C}", Owner.RUNTIME),
        (f"munmap@{C} Java_sun_nio_ch_unmap0@libnio.so", Owner.PROGRAM),
        (f"munmap@{C}", Owner.PROGRAM),
        ("pthread_pool_trim@app main@app", Owner.PROGRAM),
    ],
)
def test_giver_of_stack_is_who_called_the_c_library(stack, owner):
    assert unmapper_of_stack(frames(stack), TABLES) is owner


def test_owner_of_stack_of_a_new_threads_stack_is_the_program():
    assert owner_of_stack(frames(f"mmap@{C} pthread_create@{C} work@app main@app"), TABLES) is Owner.PROGRAM


@pytest.mark.parametrize(
    ("stack", "owner"),
    [
        (f"mmap@{C} os::reserve_memory@libjvm.so start_thread@{C}", Owner.RUNTIME),
        (f"malloc@{C} os::malloc@libjvm.so Unsafe_AllocateMemory0@libjvm.so", Owner.PROGRAM),
        (f"malloc@{C} mu_grow@libmadeup.so start_thread@{C}", Owner.RUNTIME),
        (f"malloc@{C} mu_grow@libmadeup.so", Owner.RUNTIME),
        (f"malloc@{C} mu_grow@libmadeup.so main@app", Owner.PROGRAM),
        (f"malloc@{C} mu_request_bytes@libmadeup.so mu_run@libmadeup.so", Owner.PROGRAM),
        (f"malloc@{C} work@app mu_run@libmadeup.so", Owner.PROGRAM),
    ],
)
def test_owner_of_stack_is_the_runtime_for_what_its_library_asks_unasked(stack, owner):
    assert owner_of_stack(frames(stack), TABLES) is owner


def test_owner_of_room_for_generated_code_is_the_runtime_whoever_asked_for_the_code():
    names = ("os::commit_memory", "CodeHeap::expand_by", "CodeCache::allocate", "MHN_resolve_Mem")
    stack = " ".join([f"mmap@{C}", *(f"{name}@libjvm.so" for name in names)])
    assert owner_of_stack(frames(f"{stack} resolve@-"), TABLES) is Owner.RUNTIME


@pytest.mark.parametrize(
    ("stack", "purpose"),
    [
        (f"malloc@{C} mu_jit@libmadeup.so mu_grow@libmadeup.so", "code"),
        (f"malloc@{C} mu_grow@libmadeup.so mu_jit@libmadeup.so", "heap"),
        (f"malloc@{C} mu_grow@libmadeup.so", "heap"),
        (f"mmap@{C} CodeHeap::expand@libjvm.so", "code cache"),
        (f"mmap@{C} other@libjvm.so", "other"),
    ],
)
def test_purpose_of_stack_is_that_of_the_nearest_function(stack, purpose):
    assert purpose_of_stack(frames(stack), TABLES) == purpose


JVM_COMPILES = "CompileBroker::invoke_compiler_on_method@libjvm.so CompileBroker::compiler_thread_loop@libjvm.so"


@pytest.mark.parametrize(
    ("stack", "purpose"),
    [
        ("metaspace::VirtualSpaceNode::commit_range MethodData::allocate Method::build_profiling_method_data",
         "method profiles"),
        ("os::strdup Mutex::Mutex MethodData::allocate Method::build_interpreter_method_data", "method profiles"),
        ("CodeHeap::expand_by CodeCache::allocate nmethod::new_nmethod", "code cache"),
        ("Arena::grow Phase::Phase Compile::Compile", "JIT compilers"),
        ("os::malloc SymbolTable::do_lookup ciEnv::lookup_method", "JIT compilers"),
        ("os::create_thread CompileBroker::possibly_add_compiler_threads", "thread stacks"),
    ],
)  # fmt: skip
def test_purpose_of_what_a_compiler_asks_for_is_the_compilers(stack, purpose):
    names = " ".join(f"{name}@libjvm.so" for name in stack.split())
    assert purpose_of_stack(frames(f"mmap@{C} {names} {JVM_COMPILES} start_thread@{C}"), TABLES) == purpose


def java(text):
    return [Frame(name, None, 0x1000, 0, FrameKind.JAVA_COMPILED) for name in text.split()]


DEFINED = frames(f"mmap@{C} Metaspace::allocate@libjvm.so ClassFileParser::parse_stream@libjvm.so")
BY_JAVA = [*frames("JVM_DefineClassWithSource@libjvm.so Java_java_lang_ClassLoader_defineClass1@libjava.so")]
LOADING = frames("SystemDictionary::load_instance_class_impl@libjvm.so SystemDictionary::resolve_or_null@libjvm.so")
LINKING = frames("Metaspace::allocate@libjvm.so Rewriter::rewrite@libjvm.so InstanceKlass::link_class_impl@libjvm.so")
DEFINE_CLASS = "java.lang.ClassLoader.defineClass1 java.lang.ClassLoader.defineClass"
BUILT_IN = "jdk.internal.loader.BuiltinClassLoader.defineClass jdk.internal.loader.BuiltinClassLoader.loadClass"
ACCESSOR = (
    "java.lang.System$2.defineClass jdk.internal.reflect.ClassDefiner.defineClass java.lang.reflect.Method.invoke"
)
LAMBDA = "java.lang.invoke.InnerClassLambdaMetafactory.spinInnerClass java.lang.invoke.MethodHandleNatives.linkCallSite"
HIDDEN = "java.lang.ClassLoader.defineClass0 java.lang.invoke.MethodHandles$Lookup.defineHiddenClass"
TUNED = (
    "java.lang.ClassLoader.defineClass0 java.lang.invoke.MethodHandle.customize java.lang.invoke.LambdaForm$MH.invoke"
)
REFLECTED = "jdk.internal.reflect.DirectMethodHandleAccessor.invoke java.lang.reflect.Method.invoke"


@pytest.mark.parametrize(
    ("stack", "work"),
    [
        (DEFINED + BY_JAVA + java(f"{DEFINE_CLASS} {BUILT_IN} app.Main.start"), "classes of the class path"),
        (DEFINED + LOADING + java("app.Main.start"), "classes of the class path"),
        (
            frames("mmap@ld.so JVM_LoadLibrary@libjvm.so") + java("jdk.internal.loader.BootLoader.loadLibrary a.B.c"),
            None,
        ),
        (LINKING + java("app.Main.start"), "linking of code"),
        (DEFINED + BY_JAVA + java(f"java.lang.ClassLoader.defineClass1 {ACCESSOR} app.Main.call"), "linking of code"),
        (DEFINED + BY_JAVA + java(f"{HIDDEN.split()[0]} {LAMBDA} app.Main.call"), "linking of code"),
        (DEFINED + BY_JAVA + java(f"{TUNED} {REFLECTED} app.Main.call"), "linking of code"),
        (DEFINED + BY_JAVA + java(f"{TUNED} app.Rules.compile"), None),
        (DEFINED + BY_JAVA + java(f"{HIDDEN} app.Scripts.compile"), None),
        (DEFINED + BY_JAVA + java(f"{DEFINE_CLASS} app.Loader.findClass {BUILT_IN} app.Main.start"), None),
        (DEFINED + BY_JAVA + java(f"{DEFINE_CLASS} java.net.URLClassLoader.findClass") + LOADING + java("a.B.c"), None),
        (DEFINED + BY_JAVA + java(f"{DEFINE_CLASS} {REFLECTED} app.Proxies.make"), None),
        (
            frames(f"malloc@{C} os::malloc@libjvm.so Unsafe_AllocateMemory0@libjvm.so") + java(f"{REFLECTED} a.B.c"),
            None,
        ),
        (frames(f"malloc@{C}") + java("app.Cache.fill app.Cache.<clinit>") + LOADING + java("a.B.c"), None),
    ],
)
def test_loading_of_stack_is_what_is_done_once_for_a_piece_of_code(stack, work):
    assert loading_of_stack(stack, TABLES) == work
