"""What a mailed page hides, and what it keeps."""

from __future__ import annotations

import pytest

from nativeleak.reports.html.redact import Redactor


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("reading /home/alice/app.jar failed", "reading [path] failed"),
        ("exe ~/bin/app, /opt/x y", "exe [path], [path] y"),
        ("conn-10.1.2.3:5432", "conn-[host]:5432"),
        ("to db1.prod.example.com:5432 now", "to [host] now"),
        ("fe80::1ff:fe23:4567:890a is up", "[host] is up"),
        ("alice@build-7 logged", "[host] logged"),
        ("libc.so.6 and libz.so.1.2.13", "libc.so.6 and libz.so.1.2.13"),
        ("Orders.java:12", "Orders.java:12"),
        ("com.example.Orders.remember", "com.example.Orders.remember"),
        ("+480.0 MiB (479.6 MiB to 480.5 MiB)", "+480.0 MiB (479.6 MiB to 480.5 MiB)"),
        ("std::vector<int>::push_back", "std::vector<int>::push_back"),
        ("kernel 6.1.0-13-amd64", "kernel 6.1.0-13-amd64"),
        ("1.5 and/or 2/3", "1.5 and/or 2/3"),
    ],
)
def test_text_loses_paths_addresses_and_hosts(text: str, hidden: str) -> None:
    assert Redactor(is_on=True).text(text) == hidden
    assert Redactor().text(text) == text


def test_titles_lose_their_arguments_wherever_they_stand() -> None:
    redactor = Redactor(is_on=True)
    redactor.learn_title("php-fpm: pool secret")
    redactor.learn_title("java")
    assert redactor.text("child 7 (php-fpm: pool secret, 5 MiB)") == "child 7 (php-fpm: [arguments], 5 MiB)"
    assert redactor.text("java (PID 5)") == "java (PID 5)"


def test_patterns_hide_short_names_of_what_they_match() -> None:
    redactor = Redactor(patterns=["com.example.*"])
    redactor.learn("com.example.Orders.remember", ["Orders.remember", "remember", "Orders.java"])
    redactor.learn("java.util.HashMap.put", ["HashMap.put", "HashMap.java"])
    shown = redactor.name("Orders.remember")
    assert shown.startswith("hidden-")
    assert redactor.text("1 by Orders.remember, Orders.java:7") == f"1 by {shown}, {shown}:7"
    assert redactor.name("HashMap.put") == "HashMap.put"
    assert redactor.text("com.example.Orders.remember") == shown
    assert redactor.n_names == 1


def test_equal_names_stay_equal_and_others_differ() -> None:
    redactor = Redactor(patterns=["billing::*", "worker-?"])
    first, again, other = (redactor.text(each) for each in ("billing::add", "billing::add", "billing::sub"))
    assert first == again != other
    assert redactor.text("worker-1") != redactor.text("worker-2")
    assert redactor.text("worker-10") == "worker-10"


def test_a_plain_word_is_hidden_within_names() -> None:
    assert Redactor(patterns=["acme"]).name("com.acme.Foo") == "com.hidden-1.Foo"
    assert Redactor(patterns=["acme"]).name("acmeists") == "acmeists"
