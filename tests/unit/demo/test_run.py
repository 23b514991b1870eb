"""What the demonstration tells the user."""

from __future__ import annotations

from nativeleak.demo.run import announcement, comparison


def thread(name: str, n_done: int, n_held: int) -> dict[str, object]:
    return {
        "thread": name,
        "kind": "heap",
        "block_bytes": 65536,
        "allocated_count": n_done,
        "outstanding_count": n_held,
        "outstanding_bytes": 65536 * n_held,
    }


def test_announcement_is_one_line_with_every_thread():
    line = announcement(10.0)
    assert "\n" not in line
    assert all(name in line for name in ("leaks-blocks", "leaks-mappings", "tidy-worker"))


def test_comparison_tells_bytes_and_counts():
    lines = comparison({"complete": True, "threads": [thread("leaks-blocks", 101, 101), thread("tidy-worker", 7, 0)]})
    assert lines[1:] == [
        "demo:   thread leaks-blocks   holds 6.3 MiB (6,619,136 bytes of heap: 101 x 64 KiB)",
        "demo:   thread tidy-worker    holds nothing: allocated 7 x 64 KiB and freed them all",
    ]


def test_comparison_cut_short_says_that_it_is_no_exact_truth():
    assert "ended before" in comparison({"complete": False, "threads": []})[-1]
