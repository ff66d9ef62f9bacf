"""What a plan changes on the device, gathered as runs of words and sent in one piece."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from penstock.core.plan import Ints
from penstock.worker.gpu.stream import Event, Stream
from penstock_kernels.gpu.apply_deltas import HEADER_WORDS, apply_deltas, pack_runs

LONGEST_RUN = 1 << 12  # words; longer ones are cut, so that the device's programs have about the same work
Longs = NDArray[np.int64]


class Deltas:
    """Runs of words, each with the place in the arena that it belongs to."""

    def __init__(self) -> None:
        self._destinations: list[Longs] = []
        self._lengths: list[Longs] = []
        self._words: list[Ints] = []

    def add(self, destination: int, words: Ints) -> None:
        """One run."""
        if not len(words):
            return
        starts = np.arange(0, len(words), LONGEST_RUN, dtype=np.int64)
        self._destinations.append(starts + destination)
        self._lengths.append(np.minimum(len(words) - starts, LONGEST_RUN))
        self._words.append(words)

    def add_each(self, destinations: Longs, words: Ints) -> None:
        """Single words. # both [n]"""
        self._destinations.append(destinations)
        self._lengths.append(np.ones(len(words), dtype=np.int64))
        self._words.append(words)

    def take(self, capacity: int) -> Iterator[tuple[Longs, Longs, Ints]]:
        """Destinations, lengths and words of all runs, in parts that need no more than `capacity` words packed."""
        assert capacity > LONGEST_RUN + HEADER_WORDS + 1, f"{capacity} words hold no run of {LONGEST_RUN}"
        if not self._words:
            return
        destinations = np.concatenate(self._destinations)
        lengths = np.concatenate(self._lengths)
        words = np.concatenate(self._words)
        self._destinations, self._lengths, self._words = [], [], []
        needs = np.cumsum(lengths + HEADER_WORDS)
        ends = np.cumsum(lengths)
        first = first_word = used = 0
        while first < len(lengths):
            last = int(np.searchsorted(needs, used + capacity - 1, side="right"))
            end = int(ends[last - 1])
            yield destinations[first:last], lengths[first:last], words[first_word:end]
            first, first_word, used = last, end, int(needs[last - 1])


class Uploader:
    """Brings runs to the device through a ring of host buffers, none of which is written before it has been read."""

    def __init__(self, stream: Stream, arena: Tensor, staging: Tensor) -> None:
        """`staging`: int32, memory of the device that holds one part of the runs; shared by all, in stream order."""
        self._stream, self._arena, self._staging = stream, arena, staging
        self._ring: list[tuple[Tensor, Event]] = []  # oldest first

    def send(self, deltas: Deltas) -> None:
        """Have the device put all runs in their places; returns at once."""
        for destinations, lengths, words in deltas.take(len(self._staging)):
            buffer = self._free_buffer()
            num_words = pack_runs(destinations, lengths, words, buffer.numpy())
            self._put(buffer, num_words, len(lengths))
            self._ring.append((buffer, self._stream.record()))

    def _put(self, buffer: Tensor, num_words: int, num_runs: int) -> None:
        staging, arena = self._staging, self._arena

        def work() -> None:
            staging[:num_words].copy_(buffer[:num_words], non_blocking=True)
            apply_deltas(arena, staging, num_runs).run()

        self._stream.enqueue(work)

    def _free_buffer(self) -> Tensor:
        """The buffer that was sent longest ago, or a new one while the device has not read that yet."""
        if self._ring and self._ring[0][1].is_reached():
            return self._ring.pop(0)[0]
        return self._stream.host_buffer(tuple(self._staging.shape), self._staging.dtype)
