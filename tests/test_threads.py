"""Several computations at once: their order, what one that fails does to the others, and a first one alone."""

import threading

import pytest

from jaxnas.parallel import at_once, first_alone

SECONDS = 20.0


def test_so_many_run_at_a_time_and_results_keep_their_order():
    meeting = threading.Barrier(3)

    def meet(item):
        meeting.wait(SECONDS)  # breaks unless three are here
        return item

    assert at_once(meet, range(6), 3) == list(range(6))
    assert at_once(lambda item: threading.get_ident(), range(2), 1) == [threading.get_ident()] * 2


def test_after_an_error_what_has_begun_ends_and_nothing_else_begins():
    failed, ended, begun = threading.Event(), [], []

    def work(item):
        begun.append(item)
        if item == 1:
            failed.set()
            raise OSError("the disk is full")
        assert failed.wait(SECONDS)
        threading.Event().wait(0.2)
        ended.append(item)

    with pytest.raises(OSError, match="the disk is full"):
        at_once(work, range(50), 2)
    assert 0 in ended
    assert sorted(ended) == sorted(set(begun) - {1})
    assert len(begun) < 10


def test_the_first_call_is_alone_and_one_that_failed_was_none():
    inside, meeting = [], threading.Barrier(2)

    @first_alone
    def work(item):
        inside.append(item)
        if len(inside) <= 2:
            threading.Event().wait(0.1)
            assert len(inside) <= 2
            assert inside.count(item) == 1
        if len(inside) == 1:
            raise ValueError("not yet")
        if item > 1:
            meeting.wait(SECONDS)
        return item

    with pytest.raises(ValueError, match="not yet"):
        work(0)
    alone, waited = threading.Thread(target=work, args=(1,)), []
    alone.start()
    while len(inside) < 2:
        pass
    others = [threading.Thread(target=lambda item=item: waited.append(work(item))) for item in (2, 3)]
    for thread in others:
        thread.start()
    for thread in (alone, *others):
        thread.join(SECONDS)
    assert sorted(waited) == [2, 3]
