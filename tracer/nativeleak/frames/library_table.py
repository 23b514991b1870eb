"""The libraries that are known by name. A row more is all that a library needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from nativeleak.frames.patterns import Pattern


@dataclass(frozen=True, slots=True, eq=False)
class Interpreter:
    """An interpreter whose functions say nothing of the script's.

    Attributes:
        language: For messages: ``Python``.
        tool: What shows the functions of the script; ``PID`` stands for the process.
        loops: Matches the names of its loops and calls.
    """

    language: str
    tool: str
    loops: Pattern


@dataclass(frozen=True, slots=True, eq=False)
class Library:
    """One library.

    Attributes:
        name: For people.
        modules: Matches the whole file name of its objects.
        functions: Matches the beginning of its functions, without templates and arguments, in whatever object.
        packages: Beginnings of its Java classes.
        is_base: It belongs to the language: any other library's function above it tells more.
        interpreter: Of an interpreter.
    """

    name: str
    modules: Pattern | None = None
    functions: Pattern | None = None
    packages: tuple[str, ...] = ()
    is_base: bool = False
    interpreter: Interpreter | None = None


_FILE: Final = (
    r"(?:[\w.-]+-)?(?:lib)?(?:{})(?:[-_.]?v?\d[\w.-]*)?\.so(?:\.[\w.]+)?|\[vdso\]",
    r"(?:lib)?(?:{})(?:[-_.]?v?\d[\w.]*)?(?:\.so[\d.]*)?",
)
"""File names of libraries, and of interpreters, which are programs as well."""


def _row(
    name: str,
    modules: str = "",
    functions: str = "",
    packages: str = "",
    is_base: bool = False,
    interpreter: Interpreter | None = None,
) -> Library:
    """Args: modules: Names of files without ``lib``, version and ``.so``; functions: alternatives; both regular."""
    return Library(
        name,
        Pattern(_FILE[interpreter is not None].format(modules)) if modules else None,
        Pattern(rf"(?:{functions})") if functions else None,
        tuple(packages.split()),
        is_base,
        interpreter,
    )


_GLIB: Final = (
    "x?malloc|x?realloc|calloc|free|try|memdup2?|str|strdup|strsplit|strjoin|strconcat|slice|hash|array|ptr|list"
    "|slist|string|main|object|signal"
    "|value|type|closure|thread|async|task|source|idle|timeout|variant|bytes|byte|queue|tree|key|io|file|input"
    "|output|socket|dbus|simple|cancellable"
    "|application|logv?|error|regex|match|date|uri|utf8|utf16|filename|build|quark|intern|param|boxed|weak|dataset"
    "|datalist|option|markup"
    "|scanner|spawn|dir|checksum|base64|convert|locale|sequence|node|unix|settings|unichar|vasprintf|strndup|mutex"
    "|rw|cond|private|once|child"
)
"""Second words of GLib's functions."""
_PYTHON: Final = Interpreter(
    "Python",
    "py-spy dump --pid PID",
    Pattern(
        r"_?PyEval_\w+|_?PyFunction_Vectorcall\w*|_?PyObject_(?:MakeTpCall|Vectorcall\w*|Call\w*|FastCall\w*)"
        r"|_?PyVectorcall_\w+"
        r"|_PyFunction_FastCall\w*|method_vectorcall\w*|cfunction_(?:vectorcall|call)\w*|builtin_(?:exec|eval)\w*"
        r"|Py_RunMain"
        r"|Py_BytesMain|pymain_\w+|run_mod|run_eval_code_obj|pyrun_\w+|_?PyRun_\w+|call_function|trace_call_function"
        r"|slot_tp_(?:call|init|new)|type_call|object_vacall|partial_(?:call|vectorcall)|do_call_core|thread_run"
        r"|pythread_wrapper"
        r"|bounded_lru_cache_wrapper|gen_(?:send_ex2?|iternext|send)\w*|_PyGen_\w+|task_step\w*"
        r"|TaskStepMethWrapper\w*"
        r"|context_run|_PyCFunction_\w+|PyCFunction_Call|wrapper(?:descr)?_call|vectorcall_\w+|PyIter_Next"
        r"|map_next|filter_next"
    ),
)
_RUBY: Final = Interpreter(
    "Ruby",
    "rbspy record --pid PID",
    Pattern(
        r"(?:rb_)?vm_(?:exec\w*|call\w*|sendish|invoke\w*|yield\w*|push_frame|method_\w+|cfp\w*)|rb_(?:ec|vm)_\w+"
        r"|rb_yield\w*"
        r"|rb_(?:call\w*|funcall\w*|protect|ensure|rescue\w*|iterate\w*|block_call\w*|catch\w*|thread_\w+)"
        r"|invoke_\w*block\w*"
        r"|ruby_(?:run_node|exec_node|main|init|setup)|rb_main|thread_(?:start|do_start)\w*|int_dotimes"
        r"|rb_ary_each\w*|loop_i"
        r"|call_cfunc\w*|yield_under|exec_recursive\w*|rb_iseq_eval\w*|ractor_safe_call_cfunc_\w+|int_\w*upto"
        r"|range_each\w*"
        r"|rescue2?_\w+|each_\w+_i|enumerator_block_call"
    ),
)
_NODE: Final = Interpreter(
    "JavaScript",
    "start node with --perf-basic-prof, or take a heap profile: node --inspect",
    Pattern(
        r"Builtins_\w*|v8::internal::(?:\(anonymous namespace\)::)?(?:Invoke\w*|Execution::\w+|Builtins?_?\w*"
        r"|HandleApiCallHelper|Builtin_HandleApiCall\w*|FunctionCallbackArguments::Call|StubCache\w*"
        r"|MicrotaskQueue::\w+)"
        r"|v8::(?:Function::Call|Script::Run)|node::(?:Start\w*|SpinEventLoop\w*|LoadEnvironment|InternalMakeCallback"
        r"|MakeCallback|AsyncWrap::MakeCallback|InternalCallbackScope::\w+|NodeMainInstance::\w+|StartExecution\w*"
        r"|Environment::Run\w*|CallbackScope::\w+)|uv_(?:run|_\w+)|uv__\w*(?:run|poll|io|work|timers|read"
        r"|stream\w*)\b"
    ),
)
_PHP: Final = Interpreter(
    "PHP",
    "phpspy -p PID",
    Pattern(
        r"execute_ex|zend_execute\w*|zend_call_\w+|ZEND_\w+_HANDLER|ZEND_\w+|php_execute_\w+|do_cli\w*|php_cli_\w+"
        r"|zend_do_\w+"
        r"|fcgi_\w+|php_request_\w+|zif_call_user_func\w*|_call_user_function\w*|zend_include_\w+"
    ),
)
_PERL: Final = Interpreter(
    "Perl",
    "perl -d:NYTProf",
    Pattern(
        r"Perl_(?:runops\w*|pp_\w+|call_\w+"
        r"|sv_\w*call\w*)|perl_run|S_run_body"
    ),
)
_LUA: Final = Interpreter(
    "Lua",
    "a hook of debug.sethook",
    Pattern(
        r"luaV_execute|luaD_\w+|lua_p?callk?"
        r"|lj_BC_\w+|lj_vm_\w+"
    ),
)

LIBRARIES: Final = (
    # What belongs to the language.
    _row("C library", r"c|pthread|m|rt|dl|resolv|nsl|util|anl|ld-linux[\w-]*|ld-musl[\w-]*|ld|linux-vdso|nss_\w+"
                      r"|crypt|musl-\w+",
         r"_dl_\w+|_IO_\w+|__libc_\w+|__GI_\w+|dl(?:open|sym|mopen)\b|_nl_\w+|__nss_\w+|__getdelim|(?:v?as)?printf\b",
         is_base=True),
    _row("C++ library", r"stdc\+\+|c\+\+|c\+\+abi|supc\+\+|gcc_s|gomp|atomic|omp|asan|tsan|lsan|ubsan|msan",
         r"std::|__gnu_cxx::|__cxxabiv1::|__cxa_\w+|operator new|operator delete|__gnu_debug::|__once_proxy|abi::"
         r"|_Unwind_\w+",
         is_base=True),
    _row("allocator", r"jemalloc|tcmalloc\w*|mimalloc\w*|tbbmalloc\w*|hoard|snmalloc\w*|rpmalloc|ltalloc|dmalloc"
                      r"|efence", is_base=True),
    _row("Rust library", r"std-[0-9a-f]{16}", r"core::|alloc::|std::|hashbrown::|__rust_\w+|__r[dg]l_\w+"
                                              r"|_?rust_begin_\w+|"
         r"proc_macro::|compiler_builtins::|indexmap::|smallvec::|bytes::bytes|dashmap::|once_cell::"
         r"|parking_lot\w*::|crossbeam\w*::|rayon\w*::|tokio::|futures\w*::|hyper\w*::|tower\w*::|serde\w*::|mio::"
         r"|arc_swap::"
         r"|tracing_\w+::|regex_\w+::|h2::|tonic::|prost::|axum\w*::|actix\w*::|reqwest::|rustls::", is_base=True),
    _row("Go runtime", "", r"runtime\.|runtime/|_cgo_\w+|x_cgo_\w+|crosscall\w*|internal/|sync\.|reflect\."
                           r"|net/http\.|net\.|bytes\.|bufio\.|io\.",
         is_base=True),
    _row("Go's cgo", "", r"_cgoexp_\w+|cgo\w*\.|main\._Cfunc_|[\w./]*\._Cfunc_|[\w./]*\._cgo_", is_base=True),
    # Java.
    _row("JDK", r"java|jvm|jli|nio|net|zip|jimage|jsig|management\w*|verify|awt\w*|fontmanager|instrument|jdwp"
                r"|extnet|prefs|attach|mlib_image"
         r"|javajpeg|lcms|freetype-jdk|j2\w+|sunec|rmi|sctp|syslookup|jsvml",
         packages="java. javax. jdk. sun. com.sun. com.ibm.jit. jakarta.", is_base=True),
    _row("Kotlin, Scala and Groovy", packages="kotlin. kotlinx. scala. groovy. org.codehaus.groovy. clojure. akka. "
                                              "zio. cats. org.apache.pekko.",
         is_base=True),
    _row("Netty", r"netty_\w+", r"netty_\w+|Java_io_netty_", "io.netty. reactor. io.projectreactor. "
                                                             "org.asynchttpclient. rx. io.reactivex."),
    _row("Spring", packages="org.springframework. org.aopalliance. net.bytebuddy. org.objectweb.asm. javassist. "
                            "org.hibernate."),
    _row("Tomcat", r"tcnative\w*", r"Java_org_apache_tomcat_", "org.apache.catalina. org.apache.coyote. "
                                                               "org.apache.tomcat. org.apache.jasper."),
    _row("Jetty", packages="org.eclipse.jetty. org.eclipse.aether."),
    _row("Undertow", packages="io.undertow. org.xnio. org.jboss. org.wildfly. io.quarkus. io.smallrye. "
                              "org.glassfish. io.helidon. io.micronaut."),
    _row("Vert.x", packages="io.vertx. com.linecorp.armeria. okhttp3. okio. retrofit2. feign. com.twitter.finagle."),
    _row("Kafka", r"snappyjava|lz4-java\w*|zstd-jni[\w-]*", r"Java_org_(?:xerial|apache_kafka)_|Java_net_jpountz_"
                                                            r"|Java_com_github_luben_|Java_com_aayushatharva_",
         "org.apache.kafka. org.xerial.snappy. net.jpountz. com.github.luben. com.aayushatharva. "
         "com.ning.compress. org.tukaani. org.apache.pulsar."),
    _row("Arrow", r"arrow\w*", r"arrow::|parquet::", "org.apache.arrow. org.apache.parquet."),
    _row("Java libraries", r"jnidispatch|jffi[\w.-]*|leveldbjni\w*|lmdbjava\w*|sqlitejdbc|conscrypt\w*"
                           r"|opencv_java\w*|tensorflow_jni",
         r"Java_(?:com_sun_jna|com_kenai_jffi|org_sqlite|org_conscrypt|org_fusesource|org_tensorflow|org_opencv"
         r"|org_rocksdb)_",
         "com.fasterxml. com.google.common. com.google.protobuf. com.google.gson. com.github.benmanes. org.slf4j. "
         "ch.qos.logback. org.apache.logging."
         " org.apache.log4j. org.apache.commons. org.apache.http. org.apache.hc. org.apache.lucene. "
         "org.apache.zookeeper. org.apache.thrift."
         " org.apache.avro. org.apache.hadoop. org.apache.maven. org.apache.cxf. org.apache.axis2. "
         "org.apache.struts. org.apache.felix. org.osgi."
         " com.sun.jna. jnr. com.kenai.jffi. org.rocksdb. org.iq80. org.fusesource. org.lmdbjava. org.sqlite. "
         "org.h2. org.postgresql. com.mysql."
         " org.mariadb. oracle.jdbc. com.zaxxer. com.mchange. org.mongodb. com.mongodb. redis.clients. io.lettuce. "
         "org.redisson. com.hazelcast."
         " org.infinispan. net.sf.ehcache. org.ehcache. org.conscrypt. org.bouncycastle. com.lmax. org.agrona. "
         "io.aeron. net.openhft. org.jctools."
         " org.mapdb. org.tensorflow. ai.onnxruntime. org.bytedeco. org.opencv. org.junit. org.testng. junit. "
         "org.mockito. io.micrometer."
         " io.opentelemetry. io.prometheus. org.glowroot. com.newrelic. datadog. net.sf.cglib. org.mozilla. "
         "com.ibm.icu. org.xml. org.w3c."
         " com.esotericsoftware. org.yaml. org.json. com.codahale. io.dropwizard. com.amazonaws. software.amazon. "
         "com.azure. com.google.cloud."
         " com.google.api. com.google.inject. dagger. org.apache.xerces. org.apache.xalan. org.apache.poi. "
         "org.apache.pdfbox. org.quartz."),
    # Native libraries.
    _row("RocksDB and LevelDB", r"rocksdb\w*|leveldb|librocksdbjni\w*|rocksdbjni[\w-]*|speedb\w*", r"rocksdb::"
                                                                                                   r"|rocksdb_\w+"
                                                                                                   r"|leveldb::"
                                                                                                   r"|leveldb_\w+"),
    _row("zlib and zstd", r"z|zstd|lz4|lzma|bz2|brotli\w*|snappy|deflate|isal|z-ng|minizip|lzo2|archive|zip",
         r"(?:de|in)flate\w*|zcalloc|ZSTD_\w+|ZSTDMT_\w+|ZDICT_\w+|HUF_\w+|FSE_\w+|POOL_create\w*|LZ4\w*_\w+"
         r"|lzma_\w+|BZ2_\w+|Brotli\w+|gz(?:open|read|write|dopen)\w*"
         r"|gz_\w+|compressBound|compress2?$|uncompress2?$|snappy::|XXH\w+|Compressor\w*_ZSTD"),
    _row("protobuf", r"proto(?:buf|c)[\w-]*|absl_\w+|upb\w*|utf8_range", r"google::protobuf::|absl::|upb_\w+"
                                                                         r"|_upb_\w+|flatbuffers::|capnp::|kj::"),
    _row("gRPC", r"grpc\+*\w*|gpr|address_sorting|cares|ares", r"grpc::|grpc_core::|grpc_\w+|gpr_\w+|ares_\w+",
         "io.grpc."),
    _row("Boost and others", r"boost_[\w-]+|folly|fmt|spdlog|glog|gflags|tbb|re2|thrift\w*|poco\w+|wangle|jsoncpp"
                             r"|yaml-cpp|uv|event(?:_core|_extra|_openssl|_pthreads)?|ev",
         r"boost::|folly::|fmt::|spdlog::|google::(?!protobuf)\w*|tbb::|re2::|apache::thrift::|Poco::|nlohmann::"
         r"|rapidjson::|Json::|YAML::|Eigen::"
         r"|event_base_\w+|evbuffer_\w+|bufferevent_\w+|evhttp_\w+|uv_\w+|uv__\w+|asio::|tinyxml2::|simdjson::"
         r"|llvm::|clang::|robin_hood::|ska::|phmap::"),
    _row("GLib", r"glib-2|gobject-2|gio-2|gmodule-2|gthread-2|g(?:tk|dk)-\d|pango\w*(?:-1)?|cairo\w*(?:-2)?|atk-1"
                 r"|gstreamer-1|gst\w+(?:-1)?|soup-\w+|dbus-1|systemd"
         r"|gdk_pixbuf-2|harfbuzz\w*|fontconfig|freetype|pixman-1|rsvg-2|ffi|girepository\w*(?:-1)?|json-glib-1",
         r"g_(?:" + _GLIB + r")(?:_\w+)?$|gtk_\w+|gdk_\w+|pango_\w+|cairo_\w+|_cairo_\w+|gst_\w+|dbus_\w+"
                            r"|_dbus_\w+|sd_(?:bus|event|journal)_\w+|Fc[A-Z]\w+|FT_\w+|hb_\w+|ffi_\w+"),
    _row("Qt", r"Qt\d\w+|KF\d\w+", r"Q[A-Z]\w*(?:::|$)|QtPrivate::|qt_\w+|operator<<\(Q"),
    _row("OpenSSL", r"ssl|crypto|gnutls|nss3|nssutil3|nspr4|freebl3|softokn3|mbed\w+|wolfssl|gcrypt|hogweed|nettle"
                    r"|sodium|p11-kit|krb5\w*|gssapi_krb5|k5crypto|ssh\w*|sasl2",
         r"SSL_\w+|OPENSSL_\w+|CRYPTO_\w+|EVP_\w+|BIO_\w+|X509\w*_\w+|ASN1_\w+|BN_\w+|RSA_\w+|EC_\w+"
         r"|ERR_\w+|PEM_\w+|ossl_\w+|OSSL_\w+|OBJ_\w+|BUF_\w+|DH_\w+|ASYNC_\w+|gnutls_\w+|_gnutls_\w+|mbedtls_\w+"
         r"|OPENSSL_sk_\w+|ENGINE_\w+|PKCS\d+_\w+|d2i_\w+|i2d_\w+|COMP_\w+|bssl::"),
    _row("SQLite", r"sqlite3", r"sqlite3\w+"),
    _row("XML, JSON and others", r"xml2|xslt|exslt|expat\w*|xerces-c[\w-]*|json-c|jansson|yajl|yaml|icu\w+|png\d*"
                                 r"|jpeg|tiff|webp\w*|gif|heif|openjp2|curl\w*(?:-gnutls)?"
         r"|nghttp[23]\w*|pcre\w*(?:-\w+)?|onig|readline|ncurses\w*|tinfo|sqlite|db|gdbm|lmdb|pq|mysqlclient"
         r"|mariadb\w*|hiredis|memcached|rdkafka\+*|zmq|rabbitmq|ldap\w*|lber\w*"
         r"|MagickCore-\w+|MagickWand-\w+|vips\w*|avcodec|avformat|avutil|avfilter|avdevice|sw(?:re)?scale"
         r"|swresample|opencv_\w+|openblas\w*|blas|lapack|cblas|gfortran|quadmath|mkl_\w+|torch\w*|tensorflow\w*"
         r"|onnxruntime\w*|cudart|cuda|nvidia-\w+"
         r"|GL\w*|EGL\w*|X11\w*|xcb\w*|Xext|wayland-\w+|drm\w*|unwind\w*|dw|elf|bfd\w*|numa|cap|selinux|acl|attr"
         r"|uuid|mount|blkid|audit|pam\w*|idn2|unistring|psl|tasn1|gmp|mpfr|LLVM\w*(?:-\d+)?|clang\w*(?:-\w+)?"
         r"|apr\w*-1|apreq\w*",
         r"xml[A-Z]\w+|xslt[A-Z]\w+|__xml\w+|htmlParse\w+|XML_\w+|xercesc\w*::|json_(?:object|tokener|array|string"
         r"|loads?|pack)\w*|icu(?:_\d+)?::|u(?:case|col|cnv|tf|brk|dat|nf)_\w+_?\d*$"
         r"|png_\w+|jpeg_\w+|jinit_\w+|TIFF\w+|_TIFF\w+|WebP\w+|curl_\w+|Curl_\w+|nghttp2_\w+|pcre2?_\w+|mdb_\w+"
         r"|PQ\w+|pqParse\w+|mysql_\w+|rd_kafka_\w+|zmq_\w+|ldap_\w+|ber_\w+"
         r"|av_\w+|avcodec_\w+|avformat_\w+|sws_\w+|swr_\w+|cv::|Magick\w+|Acquire\w+(?:Memory|Image)$|c10::"
         r"|torch::|apr_\w+|yaml_\w+|H5\w+_\w+|nc_\w+|lua_\w+|luaL_\w+"),
    # Interpreters.
    _row("Python", r"python", r"_?Py(?:[A-Z]\w*)?_\w+|_?Py[A-Z]\w+|pymain_\w+", interpreter=_PYTHON),
    _row("Ruby", r"ruby", r"ruby_\w+", interpreter=_RUBY),
    _row("Node", r"node|v8|electron|bun|deno", r"node::|v8::|Builtins_\w+|napi_\w+|v8impl::|cppgc::|Nan::|Napi::",
         interpreter=_NODE),
    _row("PHP", r"php(?:-\w+)?|php-fpm|mod_php", r"zend_\w+|_zend_\w+|_?e(?:malloc|calloc|realloc|strdup|strndup"
                                                 r"|free)\w*|execute_ex|ZEND_\w+",
         interpreter=_PHP),
    _row("Perl", r"perl", r"Perl_\w+|perl_\w+|PerlIO\w*", interpreter=_PERL),
    _row("Lua", r"lua|luajit(?:-5)?|lua5", r"lua[A-Z]_\w+|lj_\w+", interpreter=_LUA),
)  # fmt: skip
