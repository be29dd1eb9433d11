"""The newest value wins, across threads."""

from __future__ import annotations

import threading
import time

from explorer.mailbox import Mailbox


def test_put_replaces_and_counts() -> None:
    box: Mailbox[int] = Mailbox()
    for i in range(5):
        box.put(i)
    assert box.take() == 4
    assert box.take() is None
    assert box.dropped == 4


def test_take_waits_for_a_value() -> None:
    box: Mailbox[str] = Mailbox()
    sender = threading.Timer(0.02, box.put, ["late"])
    sender.start()
    assert box.take(timeout=5.0) == "late"
    sender.join()


def test_every_value_is_taken_or_counted() -> None:
    box: Mailbox[int] = Mailbox()
    taken: list[int] = []

    def reader() -> None:
        while (value := box.take(timeout=5.0)) != -1:
            assert value is not None
            taken.append(value)

    thread = threading.Thread(target=reader)
    thread.start()
    for i in range(2000):
        box.put(i)
    while box._slot:  # let the last one through before the stop value replaces it
        time.sleep(0.001)
    box.put(-1)
    thread.join()
    assert taken == sorted(taken)
    assert len(taken) + box.dropped == 2000
