"""References of native code by the names of the JVM's storages."""

from __future__ import annotations

import pytest

from nativeleak.runtimes.hotspot.heap.naming import handle_name


@pytest.mark.parametrize(
    ("storage", "name"),
    [
        ("JNI Global", "JNI global reference"),
        ("JNI local of thread worker-*", "JNI local reference of thread worker-*"),
        ("VM Global", "handle: VM Global"),
    ],
)
def test_references_of_native_code_are_named_as_jni_has_them(storage: str, name: str) -> None:
    assert handle_name(storage) == name
