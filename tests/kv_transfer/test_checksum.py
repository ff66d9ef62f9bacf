"""The checksum notices what transfers get wrong."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.kv_transfer.checksum import checksum_of

BLOCK_BYTES = 100_003  # not a whole number of words


def block_of(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, BLOCK_BYTES, dtype=np.uint8)


@given(st.integers(0, BLOCK_BYTES - 1), st.integers(1, 255))
def test_one_wrong_byte_is_always_noticed(place: int, change: int):
    block, expected = block_of(), checksum_of(block_of())
    block[place] ^= change
    assert checksum_of(block) != expected
    block[place] ^= change
    assert checksum_of(block) == expected


@given(st.integers(0, 23), st.integers(0, 23), st.sampled_from([64, 512, 4096]))
def test_exchanged_pieces_are_noticed(first: int, second: int, size: int):
    block = block_of()
    one, two = slice(first * size, (first + 1) * size), slice(second * size, (second + 1) * size)
    changed = block.copy()
    changed[one], changed[two] = block[two], block[one]
    assert (checksum_of(changed) == checksum_of(block)) == (first == second)


@given(st.integers(0, BLOCK_BYTES - 1), st.integers(1, BLOCK_BYTES))
def test_a_piece_that_never_came_is_noticed(start: int, size: int):
    changed = block_of()
    changed[start : start + size] = 0
    assert (checksum_of(changed) == checksum_of(block_of())) == (changed == block_of()).all()


@given(st.binary(max_size=50))
def test_small_blocks_have_checksums_of_their_own(data: bytes):
    found = {checksum_of(np.frombuffer(each, dtype=np.uint8)) for each in (data, data + b"\1", b"\2" + data)}
    assert len(found) == 3


def test_it_is_the_same_for_ever():
    assert checksum_of(np.arange(256, dtype=np.uint8)) == 0xF758F6C0
    assert checksum_of(np.tile(np.arange(251, dtype=np.uint8), 1000)) == 0x26261FBF
