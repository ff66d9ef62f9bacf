from __future__ import annotations

import subprocess
import sys

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.core.kv.block_hash import HASH_BYTES, hash_blocks, root_hash

tokens = st.lists(st.integers(0, 2**31 - 1), max_size=60).map(lambda ids: np.array(ids, dtype=np.int32))


@given(ids=tokens, cut=st.integers(0, 15))
@settings(deadline=None)
def test_a_chain_goes_on_where_it_was_left(ids, cut):
    whole = hash_blocks(root_hash(), ids, 4)
    assert len(whole) == len(ids) // 4
    head = whole[:cut]
    parent = head[-1] if head else root_hash()
    assert head + hash_blocks(parent, ids[4 * len(head) :], 4) == whole


def test_one_changed_token_renames_its_block_and_all_after_it():
    ids = np.arange(64, dtype=np.int32)
    other = ids.copy()
    other[20] += 1
    before, after = hash_blocks(root_hash(), ids, 16), hash_blocks(root_hash(), other, 16)
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, False, False]


def test_salts_share_no_block():
    ids = np.zeros(16, dtype=np.int32)
    roots = [root_hash(salt) for salt in (None, "", "a", "b", "penstock")]
    names = {hash_blocks(root, ids, 16)[0] for root in roots}
    assert len(names) == len(roots)
    assert all(len(name) == HASH_BYTES for name in names)


def test_equal_blocks_at_other_places_have_other_names():
    assert len(set(hash_blocks(root_hash(), np.zeros(64, dtype=np.int32), 16))) == 4


def test_names_are_the_same_in_another_process():
    code = (
        "import numpy as np; from penstock.core.kv.block_hash import *;"
        "print(hash_blocks(root_hash('s'), np.arange(32, dtype=np.int32), 16)[-1].hex())"
    )
    command = [sys.executable, "-c", code]
    seen = {subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for _ in range(2)}
    assert seen == {hash_blocks(root_hash("s"), np.arange(32, dtype=np.int32), 16)[-1].hex()}
    assert seen == {"c69fb45cfc5e919190b87e2017eab421"}  # caches and other replicas know blocks by these names
