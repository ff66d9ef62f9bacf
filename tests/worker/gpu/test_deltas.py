"""What changes reaches its place, however much it is, and never from a buffer that was overwritten too early."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from penstock.worker.gpu.deltas import LONGEST_RUN, Deltas, Uploader
from support.thread_stream import DEVICE, ThreadStream

WORDS, CAPACITY = 60_000, 6_000


def ints(*shape: int) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.int32, device=DEVICE)


def test_runs_of_any_number_and_length_arrive(new_stream):
    stream, dice = new_stream(seed=5), np.random.default_rng(0)
    arena, expected = ints(WORDS), np.zeros(WORDS, dtype=np.int32)
    uploader, deltas = Uploader(stream, arena, ints(CAPACITY)), Deltas()
    for lengths in ([1], [LONGEST_RUN], [LONGEST_RUN + 1, 3], [3 * LONGEST_RUN, 1, 1], [1] * 200, [20_000, 9, 0, 7]):
        places = np.cumsum([0, *lengths[:-1]]) + int(dice.integers(0, 1000))
        for place, length in zip(places.tolist(), lengths, strict=True):
            words = dice.integers(0, 1 << 30, length).astype(np.int32)
            deltas.add(place, words)
            expected[place : place + length] = words
        single = np.arange(WORDS - 60, WORDS, dtype=np.int64)
        deltas.add_each(single, -single.astype(np.int32))
        expected[single] = -single
        uploader.send(deltas)
    stream.record().wait()
    np.testing.assert_array_equal(arena.cpu().numpy(), expected)


def test_nothing_to_send_asks_nothing_of_the_device(new_thread: Callable[..., ThreadStream]):
    stream = new_thread()
    Uploader(stream, ints(10), ints(CAPACITY)).send(Deltas())
    assert stream.num_enqueued == 0


def test_a_buffer_is_used_again_only_once_the_device_has_read_it(new_thread: Callable[..., ThreadStream]):
    stream, arena, deltas = new_thread(), ints(64), Deltas()
    uploader = Uploader(stream, arena, ints(CAPACITY))
    stream.pause()
    for value in range(1, 5):
        deltas.add(value, np.array([value], dtype=np.int32))
        uploader.send(deltas)
    assert stream.num_buffers == 4
    stream.resume()
    stream.finish()
    assert arena[:6].tolist() == [0, 1, 2, 3, 4, 0]
    for value in range(5, 9):
        deltas.add(value, np.array([value], dtype=np.int32))
        uploader.send(deltas)
        stream.finish()
    assert stream.num_buffers == 4
    assert arena[:10].tolist() == [*range(9), 0]
