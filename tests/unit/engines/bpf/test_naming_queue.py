"""Which new stacks are named next, and that nothing else waits for all of them."""

from __future__ import annotations

import itertools

from nativeleak.engines.bpf.naming_queue import NamingQueue


class Clock:
    """Seconds that pass when somebody works."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def taken(queue, within_s, clock, each_s):
    keys = []
    for batch in queue.batches(within_s):
        keys.extend(batch)
        clock.now_s += each_s
    return keys


def test_batches_out_of_time_leave_the_rest_for_the_next_call():
    clock = Clock()
    queue = NamingQueue(clock)
    queue.add_all(range(1, 1010))
    first = taken(queue, 2.5, clock, each_s=1.0)
    assert first == list(range(1, 193))  # three batches of 64: the third begins before the time is over
    assert len(queue) == 1009 - 192
    assert first + taken(queue, 1e9, clock, each_s=1.0) == list(range(1, 1010))
    assert len(queue) == 0


def test_batches_of_a_stack_that_came_twice_name_it_once():
    queue = NamingQueue()
    queue.add(7, has_runtime=False)
    queue.add_all([7, 11])
    queue.add(11, has_runtime=False)
    assert [list(batch) for batch in queue.batches(1.0)] == [[7, 11]]
    assert list(queue.batches(1.0)) == []


def test_batches_without_time_name_nothing():
    queue = NamingQueue()
    queue.add(7, has_runtime=False)
    assert list(queue.batches(0.0)) == []
    assert len(queue) == 1


def test_unseen_code_is_of_runtimes_and_still_waiting():
    clock = Clock()
    queue = NamingQueue(clock)
    for key in range(1, 8):
        queue.add(key, has_runtime=key % 2 == 1)
    assert list(itertools.islice(queue.unseen_code(1.0), 2)) == [1, 3]
    clock.now_s = 5.0
    seen = []
    for key in queue.unseen_code(1.0):
        seen.append(key)
        clock.now_s += 2.0
    assert seen == [5]
    taken(queue, 1e9, clock, each_s=0.0)
    assert list(queue.unseen_code(1.0)) == []  # named meanwhile


def test_unseen_code_of_a_stack_that_was_named_in_its_turn_is_passed_over():
    clock = Clock()
    queue = NamingQueue(clock)
    for key in range(1, 130):
        queue.add(key, has_runtime=True)
    assert taken(queue, 0.5, clock, each_s=1.0) == list(range(1, 65))
    assert list(queue.unseen_code(1.0)) == list(range(65, 130))
