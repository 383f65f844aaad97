import threading
from contextlib import suppress

import pytest

from rdd_deploy.live.channel import Channel, Finished


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
