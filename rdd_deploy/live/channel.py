"""A short queue between two threads that makes the producer wait (files) or keeps only the newest (cameras)."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Finished(Exception):
    """Nothing more will come."""


class Channel(Generic[T]):
    """A bounded queue between one producer and one consumer.

    Args:
        depth: how many items fit.
        lossy: a full channel drops its oldest item instead of making the producer wait.
    """

    def __init__(self, depth: int, lossy: bool) -> None:
        self._items: deque[T] = deque()
        self._depth, self._lossy = depth, lossy
        self._changed = threading.Condition()
        self._finished = self._abandoned = False
        self._error: BaseException | None = None
        self.drops = 0
        """Items that no consumer saw, because a newer one came."""
        self.counting = True
        """False while the consumer pauses on purpose."""

    def put(self, item: T) -> bool:
        """Hand an item over; False if the consumer is gone and the producer should end."""
        with self._changed:
            if self._lossy and len(self._items) >= self._depth:
                self._items.popleft()
                self.drops += self.counting
            self._changed.wait_for(lambda: self._abandoned or len(self._items) < self._depth)
            if self._abandoned:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def get(self, timeout: float | None = None) -> T | None:
        """The next item, or None after ``timeout`` seconds without one.

        Once all were taken and no more will come it raises Finished, or what the producer failed with.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._finished or self._abandoned, timeout)
            if self._items and not self._abandoned:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None and not self._abandoned:
                raise self._error
            if self._finished or self._abandoned:
                raise Finished
            return None

    def finish(self, error: BaseException | None = None) -> None:
        """The producer has no more, or failed; what is inside is still delivered."""
        with self._changed:
            self._finished, self._error = True, error
            self._changed.notify_all()

    def abandon(self) -> None:
        """Somebody wants no more: both sides wake up and end."""
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()
