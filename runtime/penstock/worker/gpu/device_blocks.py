"""The KV blocks of a GPU, for what moves them outside the steps."""

from __future__ import annotations

import torch
from torch import Tensor

from penstock.kv_transfer.kv_blocks import HOST, Bytes, Fill, Place
from penstock.worker.gpu.faults import device_faults
from penstock.worker.gpu.stream import Stream


class DeviceBlocks:
    """See `KvBlocks`. NIXL reaches the blocks where they lie; what the host looks at or fills goes through one block of
    pinned memory, on a stream that no step uses. Every call waits for its copy, never for a step, and may raise
    `DeviceError`.
    """

    def __init__(self, kv_cache: Tensor, copies: Stream) -> None:
        """`kv_cache`: contiguous, its first dimension counts blocks. `copies`: not the stream of the steps."""
        self._blocks = kv_cache.view(torch.uint8).flatten(1)  # [num_blocks, block_bytes]
        self._copies = copies
        self.place = Place("VRAM", kv_cache.get_device()) if kv_cache.is_cuda else HOST
        self.address = kv_cache.data_ptr()
        self.num_blocks, self.block_bytes = self._blocks.shape
        self._staging = copies.host_buffer((self.block_bytes,), torch.uint8)
        self._bytes: Bytes = self._staging.numpy()

    def activate(self) -> None:
        """See `KvBlocks`: a thread has a CUDA context once it has used the GPU, and without one UCX finds no NVLink."""
        self.read(0)

    def read(self, number: int) -> Bytes:
        """See `KvBlocks`."""
        self._copy(self._staging, self._blocks[number])
        return self._bytes

    def write(self, number: int, fill: Fill) -> bool:
        """See `KvBlocks`."""
        if not fill(self._bytes):
            return False
        self._copy(self._blocks[number], self._staging)
        return True

    def _copy(self, target: Tensor, source: Tensor) -> None:
        def work() -> None:
            target.copy_(source, non_blocking=True)

        with device_faults():
            self._copies.enqueue(work)
            self._copies.record().wait()
