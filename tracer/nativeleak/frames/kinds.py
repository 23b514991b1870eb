"""Kinds of memory, as the names on a path tell them: ``direct buffer``, ``zlib stream``, ``mmap``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nativeleak.frames.display import bare
from nativeleak.frames.patterns import Pattern
from nativeleak.frames.tables import Kinds

_GENERAL: Final = (
    ("thread stack", r"_*pthread_create\w*|allocate_stack|_*pthread_allocate_stack"),
    ("zlib stream", r"(?:in|de)flate(?:Init|Copy|Reset)\w*|\w*zng_(?:in|de)flateInit\w*|gz_?(?:open|dopen)\w*"
                    r"|gz_(?:init|look)"),
    ("zstd context", r"ZSTD_(?:create\w*|reset\w*|init\w*|\w*[CD]Ctx\w*|\w*Stream\w*)|ZSTDMT_\w+"
                     r"|ZSTD_\w*compress\w*|ZDICT_\w+"),
    ("brotli stream", r"Brotli(?:Encoder|Decoder)\w+"),
    ("lz4 stream", r"LZ4F?_(?:create|init|compress|decompress)\w*"),
    ("xz stream", r"lzma_\w+"),
    ("bzip2 stream", r"BZ2_\w+"),
    ("SSL", r"SSL_\w+|X509\w*_\w+|EVP_\w+|BIO_\w+|ossl_\w+|ssl3?_\w+|tls_(?:construct|process|setup|parse)\w+"
            r"|RSA_\w+|EC_\w+|ASN1_\w+|PEM_\w+"
            r"|gnutls_\w+|mbedtls_ssl\w+|d2i_\w+"),
    ("XML", r"xml[A-Z]\w+|xslt\w+|htmlParse\w+|XML_\w+|xercesc\w*::.*"),
    ("JSON", r"json_(?:object|tokener|array|string|load|pack)\w*|cJSON_\w+|nlohmann::.*|rapidjson::.*|yajl_\w+"),
    ("SQLite", r"sqlite3\w+"),
    ("RocksDB", r"rocksdb::.*|leveldb::.*"),
    ("protobuf message", r"google::protobuf::.*"),
    ("regular expression", r"regcomp|re_compile\w*|pcre2?_compile\w*|onig_new|std::(?:__cxx11::)?basic_regex::.*"
                           r"|std::__detail::_(?:Compiler|NFA)\w*::.*|re2::.*"),
    ("shared object", r"_*dl_?m?open\w*|_dl_map_object\w*|_dl_(?:new|open)\w*|dl_open_worker\w*"),
    ("thread-local storage", r"__tls_get_addr|_dl_allocate_tls\w*|allocate_dtv\w*|tls_get_addr_tail"
                             r"|_dl_update_slotinfo"),
    ("host lookup", r"getaddrinfo|gethostby\w+|__res_\w+|_nss_\w+|getpw\w+"),
    ("stdio buffer", r"_IO_file_doallocate|_IO_new_file_\w+|setvbuf"),
    ("open file", r"fopen(?:64)?|__fopen_internal|fdopen|popen|opendir|__alloc_dir|fdopendir|open_memstream"),
    ("locale", r"setlocale|newlocale|_nl_\w+|std::locale.*"),
    ("environment", r"setenv|putenv|__add_to_environ"),
    ("Node buffer", r"node::Buffer::.*|node::NodeArrayBufferAllocator::.*|v8::ArrayBuffer::.*|v8::BackingStore::.*"
                    r"|v8::internal::BackingStore::.*|napi_create\w*buffer\w*"),
    ("Python bytes", r"PyBytes_\w+|_PyBytes_\w+|bytes_\w+|PyByteArray_\w+|bytearray_\w+"),
    ("Python string", r"PyUnicode_\w+|_PyUnicode\w*_\w+|unicode_\w+"),
    ("Python dict", r"PyDict_\w+|_PyDict_\w+|dict(?:resize|_\w+)|insertion_resize|new_keys_object"),
    ("Python list", r"PyList_\w+|_PyList_\w+|list_(?:resize|extend|append\w*)"),
    ("Python object", r"_?PyObject_(?:GC_\w+|New\w*|Init\w*)|_?PyType_GenericAlloc\w*|gc_alloc|tuple_alloc"
                      r"|PyTuple_\w+|PySet_\w+|set_\w+"),
    ("Ruby string", r"rb_(?:\w+_)?str_\w+|str_(?:new\w*|buf\w*|alloc\w*)|rb_enc_str\w*|ruby_strdup"),
    ("Ruby array", r"rb_ary_\w+|ary_\w+"),
    ("Ruby hash", r"rb_hash_\w+|st_(?:init|insert|add|rehash|copy|update)\w*|ar_\w+"),
    ("PHP string", r"zend_string_\w+|smart_str_\w+|zend_strpprintf\w*|php_(?:str|implode)\w*"),
    ("PHP array", r"zend_hash_\w+|_zend_hash_\w+|_?zend_new_array\w*|array_\w+"),
    ("string", r"std::basic_string::.*|std::(?:__cxx11::)?string::.*|std::basic_stringbuf::.*"
               r"|std::basic_\w*stringstream::.*|std::operator\+|std::to_string|std::__str_concat"
               r"|alloc::(?:string|str|fmt)::.*|QString::.*|QArrayData::.*|QByteArray::.*|g_string_\w+"
               r"|absl::Cord::.*|sdsnewlen\w*|_?sdsMakeRoomFor\w*|alloc::vec::Vec::extend_from_slice_str"),
    ("vector growth", r"std::vector::.*|std::_Vector_base::.*|std::_Bvector_base::.*|alloc::(?:raw_vec|vec)::.*"
                      r"|QVector::.*|QList::.*|g_(?:ptr_)?array_\w+|smallvec::.*|boost::container::\w*vector::.*"
                      r"|llvm::SmallVector\w*::.*"),
    ("map entry", r"std::(?:multi)?(?:map|set)::.*|std::_Rb_tree\w*(?:::.*|$)|std::unordered_\w+::.*"
                  r"|std::_Hashtable::.*|std::__detail::_(?:Map_base|Hashtable\w*|Insert\w*|ReuseOr\w*)::.*"
                  r"|std::__(?:tree|hash_table)::.*|hashbrown::.*|alloc::collections::btree::.*"
                  r"|std::collections::.*|QHash\w*::.*|QMap\w*::.*|g_hash_table_\w+"
                  r"|absl::\w*container_internal::.*|boost::unordered\w*::.*"),
    ("deque or list", r"std::(?:__cxx11::)?(?:deque|list|forward_list)::.*|std::_(?:Deque|List|Fwd_list)_base::.*"
                      r"|alloc::collections::(?:vec_deque|linked_list)::.*|g_s?list_\w+|g_queue_\w+"),
    ("shared object count", r"std::__shared_(?:ptr|count)\w*::.*|std::make_shared.*|std::allocate_shared.*"
                            r"|alloc::(?:sync|rc)::.*"),
    ("std::function", r"std::function::.*|std::_Function_(?:base|handler).*"),
    ("exception", r"__cxa_allocate_exception|__cxa_allocate_dependent_exception"),
    ("asynchronous task", r"std::(?:async|promise|future|packaged_task|__future_base|thread)\b.*|tokio::.*"),
    ("C string", r"_*(?:str|strn|wcs|xstr|g_str|ngx_str|zstr|xstrn|g_strn)dup\w*|_*v?asprintf(?:_chk)?"
                 r"|g_strdup_v?printf|getline|_*getdelim|realpath|getcwd|strndupa"),
    ("Rust box", r"alloc::(?:boxed|alloc)::.*|__rust_alloc\w*"),
    ("C++ new", r"operator new(?:\[\])?"),
    ("shared memory", r"shmat|shm_open|memfd_create"),
    ("mmap", r"_*mmap(?:64)?|mremap"),
    ("brk", r"_*s?brk|__default_morecore"),
)  # fmt: skip


def kinds(rows: Sequence[tuple[str, str]]) -> tuple[tuple[str, Pattern], ...]:
    """A table of kinds from names and alternatives of whole names."""
    return tuple((name, Pattern(rf"(?:{pattern})")) for name, pattern in rows)


_TABLE: Final = kinds(_GENERAL)


def rank_of(function: str, tables: Sequence[Kinds]) -> tuple[int, str] | None:
    """The kind of memory that a function shows, after its rank: of several on a path the lowest counts.

    Args:
        function: Its name.
        tables: Of runtimes; they go before the general one.
    """
    name = bare(function)
    rows = (row for table in (*tables, _TABLE) for row in table)
    return next(((rank, kind) for rank, (kind, pattern) in enumerate(rows) if pattern.fullmatch(name)), None)
