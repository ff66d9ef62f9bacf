"""KV blocks on a device: copied later than asked for, beside the steps and never among them."""

from __future__ import annotations

import socket
import threading

import numpy as np
import pytest
import torch

from penstock.config import TransferConfig
from penstock.errors import DeviceError, DeviceFault
from penstock.kv_transfer.kv_blocks import HOST, HostBlocks, KvBlocks, Place
from penstock.kv_transfer.messages import TransferLaunch, TransferOutput, Unattached
from penstock.kv_transfer.transfer_thread import TransferThread
from penstock.wire import decoder
from penstock.worker.channel import Channel
from penstock.worker.gpu.device_blocks import DeviceBlocks
from penstock.worker.gpu.stream import Stream
from support.thread_stream import DEVICE, ThreadStream

SHAPE = (6, 2, 3, 2, 4, 8)
BLOCK_BYTES = 2 * 3 * 2 * 4 * 8 * 2


def random_cache() -> torch.Tensor:
    bits = torch.randint(0, 1 << 15, SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.int16)
    return bits.to(DEVICE).view(torch.bfloat16)


def bytes_of(cache: torch.Tensor) -> np.ndarray:
    return cache.view(torch.uint8).flatten(1).cpu().numpy()


@pytest.fixture(params=["host", "device"])
def both(request: pytest.FixtureRequest) -> tuple[KvBlocks, torch.Tensor]:
    """Blocks in either kind of memory, and the cache under them."""
    cache = random_cache()
    if request.param == "host":
        cache = cache.cpu()
        return HostBlocks(bytes_of(cache)), cache
    stream: Stream = request.getfixturevalue("new_stream")(seed=2)
    return DeviceBlocks(cache, stream), cache


def test_a_block_is_read_bit_for_bit(both: tuple[KvBlocks, torch.Tensor]):
    blocks, cache = both
    blocks.activate()
    assert (blocks.num_blocks, blocks.block_bytes) == (6, BLOCK_BYTES)
    assert blocks.address == cache.data_ptr()
    assert blocks.place == (Place("VRAM", 0) if cache.is_cuda else HOST)
    expected = bytes_of(cache).copy()
    for number in (3, 0, 5):
        assert (blocks.read(number) == expected[number]).all()


def test_a_block_is_written_whole_and_no_other_is(both: tuple[KvBlocks, torch.Tensor]):
    blocks, cache = both
    expected, new = bytes_of(cache).copy(), np.arange(BLOCK_BYTES, dtype=np.uint8)

    def fill(block: np.ndarray) -> bool:
        block[:] = new
        return True

    assert blocks.write(4, fill)
    expected[4] = new
    assert (bytes_of(cache) == expected).all()
    assert not blocks.write(2, lambda block: False)
    assert (bytes_of(cache) == expected).all()


def test_a_device_is_not_asked_to_hold_what_could_not_be_had(new_thread):
    cache, stream = random_cache(), new_thread()
    blocks, before = DeviceBlocks(cache, stream), bytes_of(cache).copy()

    def fill(block: np.ndarray) -> bool:
        block[:] = 1
        return False

    assert not blocks.write(2, fill)
    stream.finish()
    assert (bytes_of(cache) == before).all()


def test_a_copy_is_over_when_the_call_returns(new_thread):
    cache, stream = random_cache(), new_thread(seed=4)
    blocks, expected = DeviceBlocks(cache, stream), bytes_of(cache).copy()
    stream.pause()
    threading.Timer(0.05, stream.resume).start()
    assert (blocks.read(1) == expected[1]).all()
    stream.pause()
    threading.Timer(0.05, stream.resume).start()
    assert blocks.write(1, lambda block: not block.fill(7))
    assert (bytes_of(cache)[1] == 7).all()


def failing(stream: ThreadStream) -> DeviceBlocks:
    """On a device that has failed."""

    def fail() -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    stream.enqueue(fail)
    return DeviceBlocks(random_cache(), stream)


def test_a_device_that_fails_says_so_to_who_copies(new_thread):
    with pytest.raises(DeviceError, match="illegal memory access"):
        failing(new_thread()).read(1)


def test_a_transfer_thread_whose_device_fails_passes_on_how(new_thread):
    ours, theirs = socket.socketpair()
    launch = TransferLaunch(session="s", fingerprint="f", lease_file="")
    thread = TransferThread(theirs, TransferConfig(kv_offload_memory=1 << 20), launch, may_use_gpu=True)
    thread.start()
    thread.attach(failing(new_thread()))
    said = decoder(TransferOutput).decode(Channel(ours).receive())
    thread.join()
    assert isinstance(said, Unattached)
    error = said.to_error()
    assert isinstance(error, DeviceError)
    assert (error.fault, error.exit_code) == (DeviceFault.BAD_ACCESS, 81)
    assert "illegal memory access" in str(error)
    ours.close()
