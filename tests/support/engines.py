"""Engine cores over fake devices, and requests for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count

import msgspec
import numpy as np

from penstock.config import CacheConfig, EngineConfig, SchedulerConfig
from penstock.core.kv.block_hash import hash_blocks, root_hash
from penstock.core.request import FinishReason, Request
from penstock.engine.core import EngineCore
from penstock.sampling.params import SamplingParams
from support.fake_device import EOS, FakeDevice

BLOCK_SIZE = 4


class Room(msgspec.Struct, frozen=True):
    num_blocks: int


def build_request(
    handle: int, prompt: list[int], max_tokens: int = 8, *, priority: int = 0, salt: str | None = None, client: int = 0
) -> Request:
    tokens = np.array(prompt, dtype=np.int32)
    root = root_hash(salt)
    return Request(
        client=client,
        handle=handle,
        request_id=f"r{handle}",
        prompt_ids=tokens.tobytes(),
        block_hashes=b"".join(hash_blocks(root, tokens, BLOCK_SIZE)),
        root_hash=root,
        sampling=SamplingParams(max_tokens=max_tokens, temperature=0.0, seed=0),
        stop_ids=(EOS,),
        max_total=len(prompt) + max_tokens,
        priority=priority,
        arrival=float(handle),
    )


@dataclass
class Bench:
    """An engine over a fake device, with what it has said so far."""

    device: FakeDevice
    core: EngineCore
    outputs: dict[int, list[int]] = field(default_factory=dict)
    finished: dict[int, FinishReason] = field(default_factory=dict)
    cached: dict[int, int] = field(default_factory=dict)
    handles: count = field(default_factory=count)

    def add(self, prompt: list[int], max_tokens: int = 8, **extra) -> Request:
        request = build_request(next(self.handles), prompt, max_tokens, **extra)
        self.outputs[request.handle] = []
        self.core.add(request)
        return request

    def step(self) -> None:
        for news in self.core.step().values():
            for handle, token, finish in zip(news.handles.tolist(), news.token_ids.tolist(), news.finish, strict=True):
                assert handle not in self.finished, f"a token for {handle}, which had ended"
                self.outputs[handle].append(token)
                if finish:
                    self.finished[handle] = FinishReason(int(finish))
            for handle, cached in news.started:
                assert handle not in self.cached, f"{handle} started twice"
                self.cached[handle] = cached

    def run(self, max_steps: int = 10_000) -> None:
        for _ in range(max_steps):
            if not self.core.has_work:
                break
            self.step()
        assert not self.core.has_work, "the engine does not finish"

    def check(self) -> None:
        problem = self.core.check_integrity()
        assert problem is None, problem


def build_bench(num_blocks: int = 64, device: FakeDevice | None = None, max_model_len: int = 64, **limits) -> Bench:
    device = device or FakeDevice(num_blocks, BLOCK_SIZE)
    has_prefix_cache = limits.pop("enable_prefix_caching", True)
    scheduler = SchedulerConfig(**({"max_num_seqs": 8, "max_num_batched_tokens": 32} | limits))
    cache = CacheConfig(block_size=BLOCK_SIZE, enable_prefix_caching=has_prefix_cache)
    config = EngineConfig(scheduler=scheduler, cache=cache)
    return Bench(device, EngineCore(config, device, Room(device.num_blocks), max_model_len))
