"""Names that HotSpot and the Java class library bring to stacks."""

from __future__ import annotations

from typing import Final

from nativeleak.frames.patterns import Pattern
from nativeleak.frames.tables import Kinds, RuntimeFrames

LIBRARY: Final = "libjvm.so"

_REQUESTS: Final = (
    ("JNI string", r"(?:checked_)?jni_(?:Get|New|Release)String\w*"),
    ("JNI array", r"(?:checked_)?jni_(?:Get|New|Release)\w*Array\w*|(?:checked_)?jni_GetPrimitiveArrayCritical"),
    ("global reference", r"(?:checked_)?jni_New(?:Weak)?GlobalRef|JNIHandles::make_(?:weak_)?global"),
    ("local reference", r"(?:checked_)?jni_(?:NewLocalRef|PushLocalFrame|EnsureLocalCapacity)"
                        r"|JNIHandleBlock::allocate_\w+"),
    ("direct buffer", r"(?:checked_)?jni_NewDirectByteBuffer"),
    ("thread", r"JVM_StartThread|(?:checked_)?jni_AttachCurrentThread\w*"),
    ("class metadata", r"JVM_(?:Define|LookupDefine|RedefineClass)\w*|Unsafe_Define\w*"
                       r"|(?:checked_)?jni_DefineClass|SystemDictionary::resolve_(?:class_)?from_stream"
                       r"|SystemDictionary::(?:resolve_\w+|load_instance_class\w*)|ClassFileParser::.*"
                       r"|InstanceKlass::link_class\w*|Rewriter::.*"
                       r"|JvmtiEnv::(?:Redefine|Retransform)Classes"),
    ("method handle", r"MHN_\w+|MethodHandles::\w+|SystemDictionary::(?:find_method_handle\w*"
                      r"|link_method_handle\w*|invoke_bootstrap\w*)|LinkResolver::resolve_(?:invokedynamic"
                      r"|invokehandle|dynamic)\w*"),
    ("interned string", r"JVM_InternString|StringTable::(?:do_)?intern\w*"),
    ("stack trace", r"JVM_(?:FillInStackTrace|GetStackTrace\w*|DumpThreads|DumpAllStacks)|StackWalk::.*"
                    r"|JVM_CallStackWalk"),
    ("loaded library", r"JVM_LoadLibrary|os::dll_load"),
    ("call to native code", r"(?:NativeEntryPoint|NEP|UpcallLinker|DowncallLinker|ProgrammableUpcallHandler"
                            r"|ProgrammableInvoker|UL|PUH)_?\w*(?:::.*)?"),
    ("JVMTI memory", r"JvmtiEnv::.*|jvmti_\w+|jmm_\w+|JvmtiTagMap::.*"),
    ("flight recorder", r"jfr_\w+|Jfr\w*::.*"),
    ("reflection", r"JVM_(?:GetClassDeclared\w*|GetMethodTypeAnnotations|GetClassSignature|GetClassConstantPool"
                   r"|ConstantPool\w+|Invoke\w+|NewInstance\w*)|Reflection::.*"),
)  # fmt: skip
_UNSAFE: Final = (("Unsafe memory", r"Unsafe_(?:Re)?[aA]llocateMemory\w*"),)
_CHORES: Final = (
    r"CompileBroker::.*|CompilationPolicy::.*|TieredThresholdPolicy::.*|SimpleThresholdPolicy::.*"
    r"|Method::build_(?:interpreter_method_data|profiling\w*|method_counters)"
    r"|MethodData::allocate|MethodCounters::allocate\w*|AdapterHandlerLibrary::.*|SharedRuntime::.*|CompiledIC::.*"
    r"|InlineCache\w*::.*|PtrQueue\w*::.*"
    r"|CodeCache::.*|StubCodeGenerator::.*|StubRoutines::.*"
    r"|CollectedHeap::.*|MemAllocator::.*|\w+CollectedHeap::.*|G1\w+::.*|ZHeap::.*|ZCollectedHeap::.*"
    r"|ShenandoahHeap::.*|ParallelScavengeHeap::.*|GenCollectedHeap::.*|SerialHeap::.*"
    r"|EpsilonHeap::.*|ThreadLocalAllocBuffer::.*|ObjectSynchronizer::.*|ObjectMonitor::.*|OopMapCache::.*"
    r"|OopMapCacheEntry::.*|VMThread::.*|VM_\w+::.*|SafepointSynchronize::.*"
    r"|Threads::create_vm|JNI_CreateJavaVM\w*|JavaThread::(?:exit|check_and_handle\w*|oops_do\w*)"
    r"|Deoptimization::.*|vframeArray::.*|InlineCacheBuffer::.*|CompiledICHolder::.*"
    r"|before_exit|vm_exit|ServiceThread::.*|MonitorDeflationThread::.*|NMT\w*::.*|MemTracker::.*|Log\w*::.*"
    r"|PerfData\w*::.*"
)
_ALLOCATORS: Final = r"""
    os::(?:malloc|realloc|strdup\w*|reserve_memory\w*|commit_memory\w*|map_memory\w*|attempt_reserve\w*|pd_\w+
           |Linux::\w+|create_thread|Posix::\w+)
    | (?:Allocate|Reallocate)Heap.* | resource_(?:re)?allocate_bytes.* | reserve_\w+ | anon_mmap.* | commit_memory_impl
    | (?:Chunk|ChunkPool|Arena|CHeapObj\w*|AnyObj|ArrayAllocator|ResourceObj|ResourceArea)\b.*
    | (?:Virtual|ReservedSpace|ReservedHeap|ReservedCode|ReservedMemory)\w*::.* | MmapArrayAllocator.*
    | GrowableArray\w*::(?:grow|expand_to|allocate|reserve)\w* | BasicHashtable\w*::\w+ | NMTPreInit::.*
    | \w*Hash[tT]able\w*::(?:new_entry|allocate_\w+|resize)
    | Unsafe_(?:Re)?[aA]llocateMemory0?.*
    | (?:jdk[./]internal|sun)[./]misc[./]Unsafe[.:]+(?:re)?allocateMemory0?.*
    | java[./]nio[./](?:Direct\w*Buffer\w*[.:]+<init>|ByteBuffer[.:]+allocateDirect|Bits[.:]+\w+).*
    | java[./]util[./]zip[./](?:Deflater|Inflater)[.:]+(?:<init>|init)
    | io[./]netty[./](?:buffer[./]|util[./]internal[./]PlatformDependent)\S+
    | io[./]netty[./]util[./]internal[./]\w*Cleaner\w*[.:$]+\S+
    """
_KINDS: Final = (
    *_REQUESTS,
    ("direct buffer", r"java\.nio\.(?:Direct\w*Buffer\w*\.<init>|ByteBuffer\.allocateDirect|Bits\.\w+)"
                      r"|sun\.nio\.ch\.Util\.getTemporaryDirectBuffer"
                      r"|io\.netty\.(?:buffer\.|util\.internal\.(?:PlatformDependent\w*\.\w*(?:allocateDirect"
                      r"|newDirect)\w*|\w*Cleaner\w*\.)).*|(?:checked_)?jni_NewDirectByteBuffer"),
    ("zlib stream", r"java\.util\.zip\.(?:Deflater|Inflater)\.(?:<init>|init)|Java_java_util_zip_(?:Deflater"
                    r"|Inflater)_init\w*|java\.util\.zip\.(?:GZIP|Zip|Inflater|Deflater)\w*Stream\.<init>"),
    ("zip file", r"java\.util\.zip\.ZipFile.*|java\.util\.jar\.JarFile.*|ZIP_\w+|Java_java_util_zip_Zip\w+"),
    ("zstd context", r"com\.github\.luben\.zstd\..*|Java_com_github_luben_zstd_\w+"),
    ("mapped file", r"sun\.nio\.ch\.FileChannelImpl\.map\w*|Java_sun_nio_ch_(?:FileChannelImpl"
                    r"|UnixFileDispatcherImpl|FileDispatcherImpl)_map0|sun\.nio\.ch\.\w*FileDispatcherImpl\.map0?"),
    ("foreign memory", r"jdk\.internal\.foreign\..*|java\.lang\.foreign\..*|jdk\.internal\.misc\.\w*Segment\w*\..*"),
    ("class metadata", r"Java_java_lang_ClassLoader_defineClass\w*|java\.lang\.ClassLoader\.defineClass\d?"),
    ("image", r"Java_(?:sun_java2d|sun_awt|javax_imageio|sun_font|com_sun_imageio)\w+|sun\.(?:java2d|awt|font)\..*"
              r"|com\.sun\.imageio\..*"),
    ("Unsafe memory", r"Unsafe_(?:Re)?[aA]llocateMemory\w*|(?:jdk\.internal"
                      r"|sun)\.misc\.Unsafe\.(?:re)?allocateMemory0?"),
)  # fmt: skip
_PASSING: Final = (
    r"java\.lang\.(?:Thread\.(?:run\w*|start0?)|VirtualThread\.\w+|invoke\..*|reflect\.Method\.invoke"
    r"|ScopedValue\w*.*)|(?:jdk\.internal|sun)\.reflect\..*"
    r"|java\.util\.concurrent\..*|java\.util\.stream\..*|java\.util\.function\..*"
    r"|java\.security\.AccessController\.\w+|jdk\.internal\.vm\.\w*Continuation\w*\..*"
    r"|java\.util\.(?:Timer|TimerThread)\..*|java\.util\.(?:Iterator|ArrayList|Optional|Map|HashMap)\.forEach\w*"
    r"|kotlin\.coroutines\..*|kotlinx\.coroutines\..*"
    r"|io\.netty\.util\.concurrent\..*|io\.netty\.channel\.(?:nio|epoll|kqueue|AbstractChannelHandlerContext"
    r"|DefaultChannelPipeline|SimpleChannelInboundHandler|uring).*"
    r"|org\.springframework\.(?:web\.(?:servlet|filter|method)|aop|cglib|security\.web|boot\.loader)\..*"
    r"|org\.apache\.(?:catalina\.core|coyote|tomcat\.util)\..*"
    r"|org\.eclipse\.jetty\.(?:server|servlet|util\.thread|io)\.(?!\w*BufferPool).*|jakarta\.servlet\..*"
    r"|javax\.servlet\..*|io\.undertow\.server\..*"
    r"|[^:]*\$\$(?:Lambda|FastClass|EnhancerBy|SpringCGLIB)[\w$/.]*|[^:]*LambdaForm\$.*|.*\$Proxy\d+\..*"
)
_PURPOSES: Final = (
    ("Java heap", r"\w*ReservedHeapSpace::|Universe::(?:reserve_heap|initialize_heap)|G1PageBasedVirtualSpace::"
                  r"|G1RegionToSpaceMapper::|G1RegionsLargerThan\w+::|G1RegionsSmallerThan\w+::"
                  r"|MutableSpace::|MutableNUMASpace::|ZPhysical\w*::|ZPageAllocator::|ZVirtualMemory\w*::"
                  r"|ShenandoahHeap::(?:initialize|do_commit)\w*|PSVirtualSpace::|PSOldGen::|PSYoungGen::"
                  r"|HeapRegionManager::commit|G1CollectedHeap::expand|Heap::reserve"),
    ("thread stacks", r"os::create_thread|pthread_create|os::Posix::|os::create_stack_guard"
                      r"|JavaThread::create_stack_guard\w*|StackOverflow::"),
    ("metaspace and classes", r"metaspace::|Metaspace\w*::|ClassLoaderData\w*::|SymbolTable::|ClassFileParser::"
                              r"|SystemDictionary\w*::|ConstantPool\w*::|InstanceKlass::|Klass::|KlassFactory::"
                              r"|ClassLoader\w*::|Dictionary::|PlaceholderTable::|PackageEntry\w*::|Module\w*::"
                              r"|ProtectionDomain\w*::|FileMapInfo::|StringTable::|ResolvedMethodTable::"
                              r"|ConstMethod::|Method::(?!build)"
                              r"|LoaderConstraint\w*::|ClassPath\w*::|ClassFileStream::|Annotations::|vtableStubs"
                              r"|klassVtable::|klassItable::|MetadataFactory::"),
    ("code cache", r"CodeCache::|CodeHeap::|BufferBlob::|RuntimeBlob::|CodeBlob::|nmethod::nmethod"
                   r"|nmethod::new_\w+|nmethod::allocate\w*|AdapterHandlerLibrary::|AdapterHandlerTable::"
                   r"|AdapterHandlerEntry::"
                   r"|VtableStub\w*::|StubQueue::|StubCodeGenerator::|ImmutableOopMap\w*::|ExceptionCache::"
                   r"|DependencyContext::|Dependencies::|PcDescCache\w*::|CompiledMethod::CompiledMethod"
                   r"|InlineCacheBuffer::"),
    ("JIT compilers", r"(?:C2Compiler|Compiler|C1|Compilation|CompileBroker|CompileTask|CompileQueue|Compile"
                      r"|CompilationPolicy|Phase\w*|LinearScan\w*|LIR\w*|GraphBuilder|GraphKit|Parse|IR|IRScope"
                      r"|BlockBegin"
                      r"|BlockList|Interval\w*|ValueMap|GlobalValueNumbering|Matcher|ci[A-Z]\w*|MethodLiveness"
                      r"|BCEscapeAnalyzer|ConnectionGraph|Node\w*|(?!Buffer)\w+Node|Type\w*|OopFlow|Instruction"
                      r"|ValueStack"
                      r"|LIRGenerator|FrameMap|RangeCheckElimin\w*|Optimizer|BarrierSetC\w+|G1BarrierSetC\w+"
                      r"|CodeBuffer|CodeSection|MacroAssembler|RegMask|LRG\w*|IndexSet|CallGenerator|JVMState"
                      r"|MethodData"
                      r"|MethodCounters|JVMCI\w*|Interpreter|TemplateTable|Unique_Node_List|InlineTree|SuperWord"
                      r"|IdealLoopTree|LoopNode|DebugInformationRecorder|OopMap|OopMapSet|Disassembler"
                      r"|DirectiveSet|CompilerOracle)::"),
    ("garbage collector", r"(?:G1|Parallel|PS|Z[A-Z]|Shenandoah|Serial|DefNew|Tenured|Card|CollectedHeap"
                          r"|GenCollectedHeap|WorkGang|Worker|GC|Gang|TaskQueue|GenericTaskQueue|OverflowTaskQueue"
                          r"|Concurrent|Mark"
                          r"|RefProc|Reference|BarrierSet|DirtyCard|SATB|HeapRegion|FreeRegion|Survivor"
                          r"|OtherRegions|SparsePRT|PerRegion|BitMap|CHeapBitMap|WeakProcessor|OopStorage"
                          r"|Oop\w*Closure|TruncatedSeq"
                          r"|BufferNode|PtrQueue|StringDedup|Preserved|Evac|Epsilon|AgeTable|ObjArray|PLAB"
                          r"|ThreadLocalAllocBuffer|Suspendible|MemoryPool|MemoryManager|GenerationPool|NumberSeq"
                          r"|AbsSeq)\w*::|VM_(?:G1|Collect|GC|Parallel|Z|Shenandoah|Gen)\w*"),
    ("flight recorder", r"Jfr\w*::|jfr_"),
    ("JVMTI and management", r"Jvmti\w*::|jvmti_|jmm_|Management::|Attach\w*::|DCmd\w*::|HeapDump\w*::"
                             r"|DumpWriter::|PerfData\w*::|PerfMemory::|PerfDataManager::|NMT\w*::|MemTracker::"
                             r"|VirtualMemoryTracker::|Malloc(?:Site|Memory)\w*::"),
    ("threads", r"Threads::(?:add|create_vm|initialize)|ThreadsSMRSupport::|ThreadsList::|(?:Java|Compiler|VM"
                r"|Watcher|Concurrent\w*|Named|NonJava|Service)?Thread::\w*Thread\b"
                r"|(?:Java)?Thread::(?:initialize\w*|prepare|pretouch)"
                r"|OSThread::|Parker::|ParkEvent::|ObjectMonitor::ObjectMonitor|ObjectSynchronizer::|HandleArea::"
                r"|HandleMark::|JNIHandleBlock::|Monitor::|Mutex::Mutex|SafepointMechanism::|ThreadHeapSampler::"
                r"|WatcherThread::"),
    ("logging and flags", r"Log\w*::|JVMFlag\w*::|Arguments::|outputStream::|stringStream::|defaultStream::"
                          r"|fileStream::|UnifiedOopRef|Flag\w*::"),
)  # fmt: skip
_WORKS: Final = (
    ("method profiles", r"Method::build_(?:interpreter_method_data|profiling\w*|method_counters)"
                        r"|MethodData::allocate|MethodCounters::allocate\w*"),
    ("JIT compilers", r"CompileBroker::(?:compiler_thread_loop|invoke_compiler_on_method|compile_method\w*)"),
)  # fmt: skip
_LOADING: Final = (
    ("classes of the class path", r"jdk\.internal\.loader\.(?:BuiltinClassLoader|ClassLoaders(?:\$\w+)?"
                                  r"|BootLoader)\.\w*(?:[cC]lass|[pP]ackage)\w*"
                                  r"|SystemDictionary::load_(?:instance_class|shared_)\w*|ClassLoader::load_class"),
    ("linking of code", r"InstanceKlass::link_class\w*|LinkResolver::resolve_\w+"
                        r"|(?:InterpreterRuntime|SharedRuntime)::resolve_\w+"
                        r"|java\.lang\.invoke\.MethodHandleNatives\.link\w+"
                        r"|jdk\.internal\.reflect\.(?:MethodAccessorGenerator\.generate\w*|ClassDefiner\.\w+"
                        r"|(?:MethodHandleAccessorFactory|ReflectionFactory)\.new\w*Accessor\w*)"),
)  # fmt: skip
"""A loader that the program made itself is not among them: it may be made again and again."""


def _table(rows: Kinds | tuple[tuple[str, str], ...], whole: bool) -> Kinds:
    return tuple((name, Pattern(rf"(?:{pattern})" + ("$" if whole else ""))) for name, pattern in rows)


FRAMES: Final = RuntimeFrames(
    library=LIBRARY,
    launchers=("libjli.so",),
    requests=_table((*_REQUESTS, *_UNSAFE), whole=True),
    chores=Pattern(rf"(?:{_CHORES})$"),
    own=Pattern(r"(?:CodeCache|CodeHeap)::.*"),
    allocators=_ALLOCATORS,
    passing=Pattern(_PASSING),
    kinds=_table(_KINDS, whole=True),
    purposes=_table(_PURPOSES, whole=False),
    works=_table(_WORKS, whole=True),
    places=frozenset({"Java heap", "thread stacks", "code cache"}),
    loading=_table(_LOADING, whole=True),
    tuning=(
        Pattern(r"java\.lang\.invoke\.MethodHandle\.(?:maybeC|c)ustomize$"),
        Pattern(r"jdk\.internal\.reflect\.Direct\w+Accessor\.\w+$"),
    ),
    linking=frozenset({"linking of code"}),
    bounded={
        **dict.fromkeys(("code cache", "method profiles", *(name for name, _ in _LOADING)), "code"),
        "Java heap": "-Xmx",
    },
)
