"""The offload tier: what comes back is what went in, in bounds, and after a restart."""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config import TransferConfig
from penstock.errors import ConfigError
from penstock.kv_transfer.messages import Attached, Fetch, Fetched, Store, Stored, Unattached
from penstock.kv_transfer.offload import OffloadTier, build_tier
from penstock.kv_transfer.offload_files import ENDING, HEADER, FileTier
from penstock.kv_transfer.offload_memory import MemoryTier
from support.kv_worker import KvWorker

BLOCK_BYTES = 1000
FILE_BYTES = HEADER.size + BLOCK_BYTES


def name_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def block_of(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, BLOCK_BYTES, dtype=np.uint8)


def build(folder: Path | None, *, memory: int = 4, files: int = 8, fingerprint: str = "abc") -> OffloadTier:
    config = TransferConfig(
        kv_offload_memory=memory * BLOCK_BYTES,
        kv_offload_folder=None if folder is None else str(folder),
        kv_offload_file_bytes=files * FILE_BYTES,
    )
    tier = build_tier(config, fingerprint, BLOCK_BYTES)
    assert tier is not None
    return tier


def store(tier: OffloadTier, *numbers: int) -> None:
    for number in numbers:
        tier.store(name_of(number), block_of(number))


def found(tier: OffloadTier, *numbers: int) -> list[int]:
    """Which of these come back, each bit for bit."""
    result = []
    for number in numbers:
        block = np.zeros(BLOCK_BYTES, dtype=np.uint8)
        if tier.fetch(name_of(number), block):
            assert (block == block_of(number)).all()
            result.append(number)
    return result


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name.endswith(ENDING)}


def test_blocks_come_back_bit_for_bit_from_memory_and_from_files(tmp_path: Path):
    tier = build(tmp_path)
    store(tier, *range(8))  # 0 to 3 had to go from memory
    assert found(tier, *range(9)) == list(range(8))
    assert tier.take_dropped() == [name_of(8)]


def test_memory_alone_forgets_what_was_used_longest_ago():
    tier = build(None)
    store(tier, 1, 2, 3, 4)
    assert found(tier, 1) == [1]
    store(tier, 5, 1, 6)  # 2 goes for 5; 1 is there and only used again; 3 goes for 6
    assert found(tier, 1, 2, 3, 4, 5, 6) == [1, 4, 5, 6]
    assert tier.take_dropped() == [name_of(2), name_of(3)]
    assert tier.names == []
    assert not tier.has_unwritten


def test_files_stay_within_their_bytes_and_the_oldest_go(tmp_path: Path):
    tier = build(tmp_path, memory=1, files=3)
    store(tier, 1, 2, 3)
    while tier.has_unwritten:
        tier.write_one()
    assert found(tier, 1) == [1]
    store(tier, 4, 5)
    tier.close()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3 * FILE_BYTES
    assert set(tier.take_dropped()) == {name_of(2), name_of(3)}
    assert found(build(tmp_path, files=3), 1, 2, 3, 4, 5) == [1, 4, 5]


def test_files_survive_in_the_order_of_their_use(tmp_path: Path):
    tier = build(tmp_path)
    store(tier, 1, 2, 3)
    while tier.has_unwritten:
        tier.write_one()
    tier.close()
    for number, path in enumerate(sorted(tmp_path.glob("*" + ENDING))):
        os.utime(path, (number, number))
    again = build(tmp_path)
    assert again.names == [name_of(1), name_of(2), name_of(3)]
    assert found(again, 1) == [1]
    again.close()
    assert build(tmp_path).names == [name_of(2), name_of(3), name_of(1)]


def test_an_orderly_end_writes_what_is_still_to_be_written(tmp_path: Path):
    tier = build(tmp_path)
    store(tier, 1, 2, 3)
    tier.close()
    assert found(build(tmp_path), 1, 2, 3) == [1, 2, 3]


@pytest.mark.parametrize("offset", [0, 8, 30, HEADER.size, FILE_BYTES - 1])
def test_a_file_with_one_wrong_bit_is_never_used_and_goes(tmp_path: Path, offset: int):
    tier = build(tmp_path)
    store(tier, 1, 2)
    tier.close()
    path = tmp_path / f"abc-{name_of(1).hex()}{ENDING}"
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)
    again = build(tmp_path)
    assert found(again, 1, 2) == [2]
    assert not path.exists()
    assert again.take_dropped() == [name_of(1)]


def test_a_right_block_under_a_wrong_name_is_wrong(tmp_path: Path):
    tier = build(tmp_path)
    store(tier, 1, 2)
    tier.close()
    path, other = (tmp_path / f"abc-{name_of(number).hex()}{ENDING}" for number in (1, 2))
    path.write_bytes(other.read_bytes())
    assert found(build(tmp_path), 1, 2) == [2]


def test_files_of_no_use_are_deleted_and_those_of_others_left_alone(tmp_path: Path):
    tier = build(tmp_path)
    store(tier, 1)
    tier.close()
    good = files_in(tmp_path)
    useless = [f"other-{name_of(1).hex()}{ENDING}", f"abc-{name_of(2).hex()}{ENDING}", f"abc-xyz{ENDING}"]
    useless += [f"abc-{name_of(3).hex()}.part{ENDING}", f"abc-{ENDING}", f"abc-{'٣' * 32}{ENDING}"]
    for file in [*useless, "letter.txt"]:
        (tmp_path / file).write_bytes(b"short")
    (tmp_path / useless[0]).write_bytes(bytes(FILE_BYTES))
    assert build(tmp_path).names == [name_of(1)]
    assert files_in(tmp_path) == good
    assert (tmp_path / "letter.txt").read_bytes() == b"short"


def test_a_file_that_vanishes_is_a_block_that_is_not_there(tmp_path: Path):
    tier = build(tmp_path, memory=1)
    store(tier, 1, 2)
    (tmp_path / f"abc-{name_of(1).hex()}{ENDING}").unlink()
    assert found(tier, 1, 2) == [2]


def test_a_disk_that_refuses_costs_blocks_and_nothing_else(tmp_path: Path):
    folder = tmp_path / "tier"
    tier = build(folder, memory=1)
    store(tier, 1)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    store(tier, 2, 3)
    assert found(tier, 1, 2, 3) == [3]
    assert tier.take_dropped() == [name_of(1), name_of(2)]


def test_two_processes_do_not_share_a_folder(tmp_path: Path):
    tier = build(tmp_path)
    with pytest.raises(ConfigError, match=r"^--kv-offload-folder: .* is in use by another process$"):
        build(tmp_path)
    tier.close()
    build(tmp_path).close()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TransferConfig(kv_offload_memory=BLOCK_BYTES - 1), "--kv-offload-memory: 999 bytes hold no block of 1,000"),
        (TransferConfig(kv_offload_memory=BLOCK_BYTES, kv_offload_folder="/proc/x"), "--kv-offload-folder: /proc/x"),
        (
            TransferConfig(kv_offload_memory=BLOCK_BYTES, kv_offload_folder="/tmp", kv_offload_file_bytes=5),
            "--kv-offload-file-bytes: 5 bytes hold no block of 1,000",
        ),
    ],
)
def test_settings_that_cannot_work_are_named(config: TransferConfig, message: str):
    with pytest.raises(ConfigError, match=message):
        build_tier(config, "abc", BLOCK_BYTES)


def test_without_settings_there_is_no_tier():
    assert build_tier(TransferConfig(), "abc", BLOCK_BYTES) is None


@given(st.lists(st.tuples(st.sampled_from(["store", "fetch"]), st.integers(0, 9)), max_size=60))
def test_memory_holds_exactly_what_was_used_last(steps: list[tuple[str, int]]):
    tier, expected = OffloadTier(MemoryTier(4, BLOCK_BYTES), None), OrderedDict[int, None]()
    for what, number in steps:
        if what == "store":
            store(tier, number)
            expected[number] = None
            if len(expected) > 4:
                expected.popitem(last=False)
        else:
            assert found(tier, number) == ([number] if number in expected else [])
        if number in expected:
            expected.move_to_end(number)
    assert [number for number in range(10) if name_of(number) in tier] == sorted(expected)


def test_a_worker_keeps_blocks_over_its_death_and_stops_at_the_first_that_is_gone(tmp_path: Path):
    settings = {"role": "both", "kv_offload_memory": 400_000, "kv_offload_folder": str(tmp_path / "tier")}
    names = [name_of(number) for number in range(10)]
    blocks = np.arange(10, dtype=np.int32)
    first = KvWorker(tmp_path, **settings)
    assert first.first == Attached(endpoint=None, stored=[])
    first.fill()
    kept = first.memory[:10].copy()
    assert first.call(Store(call=1, blocks=blocks, hashes=names)) == Stored(call=1, stored=names, dropped=[])
    other = KvWorker(tmp_path, **settings)
    assert isinstance(other.first, Unattached)
    assert "in use by another process" in other.first.why
    other.close()
    while len(files_in(tmp_path / "tier")) < 10:
        assert first.process.poll() is None
    first.kill()
    again = KvWorker(tmp_path, **settings)
    assert again.first == Attached(endpoint=None, stored=names)
    (tmp_path / "tier" / f"{'f' * 32}-{names[7].hex()}{ENDING}").unlink()
    answer = again.call(Fetch(call=2, blocks=blocks + 30, hashes=names))
    assert isinstance(answer, Fetched)
    assert (answer.call, answer.num_good, answer.num_bytes) == (2, 7, 700_000)
    assert (again.memory[30:37] == kept[:7]).all()
    answer = again.call(Store(call=3, blocks=blocks[:1], hashes=names[:1]))
    assert answer == Stored(call=3, stored=names[:1], dropped=[names[7]])
    again.close()


def test_file_tiers_know_their_names(tmp_path: Path):
    tier = FileTier(tmp_path, 10 * FILE_BYTES, "abc", BLOCK_BYTES)
    assert name_of(1) not in tier
    assert tier.put(name_of(1), block_of(1), 0) == []
    assert name_of(1) in tier
    tier.drop(name_of(1))
    assert tier.names == []
    assert files_in(tmp_path) == set()
