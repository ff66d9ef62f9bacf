"""Pods that share KV by NIXL, whose workers are a GPU's: steps run on one thread that plays it, copies on another."""

from __future__ import annotations

import socket
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from penstock.config import CacheConfig, ComputeConfig, ModelConfig
from penstock.kv_transfer.transfer_thread import TransferThread
from penstock.worker.cpu.worker import CpuWorker
from penstock.worker.executor import InlineExecutor
from penstock.worker.phases import Phases
from support.gpu_workers import build_gpu_worker, play_gpu
from support.lives import BLOCK_SIZE, CONTEXT, VOCABULARY
from support.sharing_lives import SharingLife, SharingPod
from support.thread_stream import ThreadStream
from support.tiny_models import save_tiny_model

SHAPE = {"vocab_size": VOCABULARY, "num_hidden_layers": 1, "max_position_embeddings": CONTEXT}
BLOCK_BYTES = 2 * 2 * BLOCK_SIZE * 32 * 4  # heads, keys and values, tokens, head_dim, float32
CHUNK = 16  # tokens of a step


def save_model(folder: Path):
    """The model of both pods, and the same in the reference."""
    return save_tiny_model(folder, **SHAPE)


class GpuTransfers:
    """A transfer thread in this process; see `ScriptedWorker` for what stands here otherwise."""

    def __init__(self, thread: TransferThread, connection: socket.socket, streams: list[ThreadStream]) -> None:
        self.connection, self._thread, self._streams = connection, thread, streams

    def close(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive(), "the link did not close the worker's socket"
        for stream in self._streams:
            stream.close()


class WorkerLife(SharingLife):
    """One life of an engine core with a real worker: of the device that its configuration names, in this process."""

    def open_device(self, fabric: Path, num_blocks: int, step_time: float):
        config, ours = self.launch.config, socket.socketpair()
        is_cpu = config.compute.device == "cpu"
        thread = TransferThread(ours[1], config.transfer, self.sharing.worker_launch, may_use_gpu=not is_cpu)
        thread.start()
        streams = [ThreadStream(seed=5), ThreadStream(seed=6)]
        workers = []

        def build(*told):
            open_device = partial(play_gpu, lambda: streams[0], copies=streams[1])
            workers.append(CpuWorker(*told, Phases()) if is_cpu else build_gpu_worker(*told, open_device))
            return workers[0]

        executor = InlineExecutor(config, fabric, build)
        executor.start()
        thread.attach(workers[0].kv_blocks)
        return executor, GpuTransfers(thread, ours[0], streams)


def build_pod(folder: Path, model: Path, num_blocks: int, device: str = "cuda", **transfer) -> SharingPod:
    """A pod with room for so many blocks; `transfer`: of the configuration."""
    parts = {
        "model": ModelConfig(dtype="float32"),
        "cache": CacheConfig(block_size=BLOCK_SIZE, kv_cache_memory=num_blocks * BLOCK_BYTES),
        "compute": ComputeConfig(device=device, threads=1, optimize=0, attention_backend="torch"),
    }
    scheduler = {"max_num_seqs": 4, "max_num_batched_tokens": CHUNK, "target_itl_ms": 0}
    transfer = {"kv_stall_seconds": 60.0, "kv_checksums": 1.0, "kv_lease_seconds": 60.0} | transfer
    return SharingPod(folder, model, scheduler=scheduler, life=WorkerLife, parts=parts, **transfer)


@asynccontextmanager
async def gpu_pods(folder: Path, model: Path, num_blocks: int):
    """A prefill pod; a decode pod that knows it and has a tier behind its cache; and a prefill pod on the CPU."""
    async with AsyncExitStack() as stack:

        async def start(name: str, **options) -> SharingPod:
            pod = build_pod(folder / name, model, num_blocks, **options)
            stack.push_async_callback(pod.stop)
            await pod.start(num_blocks=num_blocks)
            return pod

        prefill = await start("prefill", role="prefill")
        on_cpu = await start("on_cpu", role="prefill", device="cpu")
        on_cpu.peer.fields["name"] = "on-cpu"
        known = prefill.peer.address
        decode = await start("decode", role="decode", prefillers=known, kv_offload_memory=1 << 20)
        await decode.until(lambda: decode.life.sharing._link.views)
        yield prefill, decode, on_cpu
