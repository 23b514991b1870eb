from __future__ import annotations

import pytest

from nativeleak.runtimes.hotspot.text import class_name, decode_modified_utf8, method_name


@pytest.mark.parametrize(
    ("internal", "name"),
    [
        ("java/util/Map$Entry", "java.util.Map$Entry"),
        ("Main", "Main"),
        ("io/netty/buffer/PoolArena", "io.netty.buffer.PoolArena"),
        ("App$$Lambda$14+0x0000000800c03000", "App$$Lambda"),
        ("com/x/App$$Lambda$14/0x0000000840064c40", "com.x.App$$Lambda"),
        ("App$$Lambda+0x00007f64fc001000", "App$$Lambda"),
        ("App$$Lambda$7", "App$$Lambda"),
        ("App$$Lambda$Other", "App$$Lambda$Other"),
        ("java/lang/invoke/LambdaForm$MH+0x00007f54d0002400", "java.lang.invoke.LambdaForm$MH"),
        ("com/sun/proxy/$Proxy12", "com.sun.proxy.$Proxy12"),
        ("a/0xCAFE", "a.0xCAFE"),
        ("bad\x1b[31m", "bad?[31m"),
    ],
)
def test_class_name_is_as_java_writes_it(internal, name):
    assert class_name(internal) == name


def test_method_name_has_class_and_method():
    assert method_name("java/lang/Thread", "<init>") == "java.lang.Thread.<init>"
    assert method_name("App", "größe") == "App.größe"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain", "plain"),
        ("größe 線程".encode(), "größe 線程"),
        (b"a\xc0\x80b", "a\0b"),
        (b"\xed\xa0\xbd\xed\xb8\x80", "\U0001f600"),
        (b"\xed\xa0\xbd", "�"),
        (b"\xff\xfe", "��"),
    ],
)
def test_modified_utf8_is_decoded(data, text):
    assert decode_modified_utf8(data) == text
