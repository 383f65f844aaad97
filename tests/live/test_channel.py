import threading
import time
from contextlib import suppress

import pytest

from rdd_deploy.live.channel import Channel, Finished, Relay


def test_lossless_delivers_everything_in_order() -> None:
    channel: Channel[int] = Channel(2, lossy=False)
    got = []

    def produce() -> None:
        for number in range(200):
            assert channel.put(number)
        channel.finish()

    producer = threading.Thread(target=produce)
    producer.start()
    with suppress(Finished):
        while True:
            got.append(channel.get(5))
    producer.join(5)
    assert got == list(range(200))
    assert channel.drops == 0


def test_lossy_keeps_the_newest() -> None:
    channel: Channel[int] = Channel(1, lossy=True)
    for number in range(10):
        assert channel.put(number)
    assert channel.get() == 9
    assert channel.drops == 9
    assert channel.get(timeout=0.01) is None
    channel.counting = False
    for number in range(10):
        channel.put(number)
    assert channel.drops == 9


def test_finish_delivers_what_is_inside() -> None:
    channel: Channel[int] = Channel(2, lossy=False)
    channel.put(1)
    channel.finish()
    assert channel.get() == 1
    with pytest.raises(Finished):
        channel.get()


def test_abandon_wakes_a_waiting_producer_and_consumer() -> None:
    full: Channel[int] = Channel(1, lossy=False)
    full.put(1)
    answers: list[object] = []
    empty: Channel[int] = Channel(1, lossy=False)

    def consume() -> None:
        try:
            answers.append(empty.get())
        except Finished:
            answers.append("finished")

    threads = [threading.Thread(target=lambda: answers.append(full.put(2))), threading.Thread(target=consume)]
    for thread in threads:
        thread.start()
    full.abandon()
    empty.abandon()
    for thread in threads:
        thread.join(5)
    assert sorted(map(str, answers)) == ["False", "finished"]
    with pytest.raises(Finished):
        full.get()


def test_a_relay_deals_with_items_one_at_a_time_in_the_threads_that_bring_them() -> None:
    relay: Relay[int] = Relay()
    by: list[tuple[int, str]] = []
    running: list[int] = []

    def deal(item: int) -> bool:
        running.append(item)
        assert running == [item]
        time.sleep(0.002)
        by.append((item, threading.current_thread().name))
        running.clear()
        return item != 9

    relay.to = deal
    wanted: list[bool] = []
    threads = [
        threading.Thread(target=lambda: wanted.extend(relay.put(number) for number in range(5)), name=str(name)) for name in range(3)
    ]
    for thread in threads:
        thread.start()
    assert relay.get(0.001) is None
    for thread in threads:
        thread.join(5)
    assert sorted(by) == sorted((number, str(name)) for number in range(5) for name in range(3))
    assert wanted == [True] * 15
    assert not relay.put(9)
    relay.finish()
    with pytest.raises(Finished):
        relay.get(5)


def test_an_abandoned_relay_waits_for_what_is_being_dealt_with_and_takes_nothing_more() -> None:
    relay: Relay[str] = Relay()
    began, dealt = threading.Event(), []

    def deal(item: str) -> bool:
        began.set()
        time.sleep(0.05)
        dealt.append(item)
        return True

    relay.to = deal
    thread = threading.Thread(target=relay.put, args=("first",))
    thread.start()
    assert began.wait(5)
    relay.abandon()
    assert dealt == ["first"]
    assert not relay.put("second")
    thread.join(5)
    assert dealt == ["first"]
    with pytest.raises(Finished):
        relay.get(5)


def test_what_dealing_raises_reaches_the_producer() -> None:
    relay: Relay[int] = Relay()

    def deal(item: int) -> bool:
        raise OSError("no space")

    relay.to = deal
    with pytest.raises(OSError, match="no space"):
        relay.put(1)
    relay.abandon()
