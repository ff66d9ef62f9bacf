"""Engine lives over fake devices behind real sockets, and front-ends for them."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers

from penstock.config import CacheConfig, EngineConfig, SchedulerConfig, ServerConfig
from penstock.engine.async_llm import AsyncLLM
from penstock.engine.client import EngineClient
from penstock.engine.core import EngineCore
from penstock.engine.core_process import CoreServer
from penstock.engine.launch import Launch
from penstock.engine.messages import EngineReady
from penstock.engine.notice import tell_engine_down
from penstock.engine.output import OutputDelta
from penstock.engine.output_stream import OutputStream
from penstock.models.spec import ModelSpec
from penstock.sampling.params import SamplingParams
from penstock.tokenizer import Tokenizer
from support.engines import Room
from support.fake_device import VOCABULARY, AsyncFakeDevice, expected_outputs

BLOCK_SIZE = 4
NUM_BLOCKS = 512
CONTEXT = 512
PROMPTS = [[10 + n, 20, 30 + n, 40] * (n % 3 + 1) for n in range(12)]
SECONDS = 10  # after which a test hangs


def build_spec() -> ModelSpec:
    return ModelSpec(
        architecture="LlamaForCausalLM",
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=8,
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=8,
        rms_norm_eps=1e-5,
        rope_theta=10_000.0,
        rope_scaling=None,
        max_position=CONTEXT,
        tie_word_embeddings=True,
        attention_bias=False,
        qk_norm=False,
        sliding_window=0,
        bos_token_id=None,
        eos_token_ids=(),
    )


def build_tokenizer(folder: Path) -> Tokenizer:
    """A byte-level tokenizer of as many tokens as the fake device says."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*letters, *(f"Ġw{number}" for number in range(len(letters), VOCABULARY))]
    backend = Backend(models.BPE(vocab={word: index for index, word in enumerate(words)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({}))
    return Tokenizer.from_folder(folder)


def build_launch(folder: Path, *, api_servers: int = 1, **limits) -> Launch:
    config = EngineConfig(
        cache=CacheConfig(block_size=BLOCK_SIZE),
        scheduler=SchedulerConfig(**({"max_num_seqs": 16} | limits)),
        server=ServerConfig(api_servers=api_servers),
    )
    return Launch(config=config, folder=str(folder), max_model_len=CONTEXT, run_dir=str(folder))


class Life:
    """One life of an engine core, on a thread."""

    def __init__(self, launch: Launch, epoch: int, step_time: float = 0.002) -> None:
        self.launch, self.epoch = launch, epoch
        self.device = AsyncFakeDevice(NUM_BLOCKS, BLOCK_SIZE, 2, step_time)
        self.core = EngineCore(launch.config, self.device, Room(NUM_BLOCKS), CONTEXT)
        ready = EngineReady(epoch=epoch, num_blocks=NUM_BLOCKS - 1, block_size=BLOCK_SIZE, max_model_len=CONTEXT)
        self.server = CoreServer(self.core, launch, ready)
        self._thread = threading.Thread(target=self.server.run)
        self._thread.start()

    def end(self) -> None:
        """Die without a word to anybody."""
        if self._thread.is_alive():
            self.server.stop()
            self._thread.join(SECONDS)
            self.server.close()
            self.device.close()

    def die(self, clients: Iterable[int] = (0,)) -> None:
        """Die, and have the front-ends told, as the supervisor does."""
        self.end()
        tell_engine_down([self.launch.client_address(client) for client in clients], self.epoch)


class Lives:
    """All engine lives of a test."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.all: list[Life] = []

    def begin(self, **options) -> Life:
        self.all.append(Life(self.launch, len(self.all) + 1, **options))
        return self.all[-1]


@contextmanager
def lives_of(launch: Launch):
    lives = Lives(launch)
    try:
        yield lives
    finally:
        for life in lives.all:
            life.end()


def build_llm(launch: Launch, client: int = 0, **options) -> AsyncLLM:
    folder = Path(launch.folder)
    return AsyncLLM(
        config=launch.config,
        spec=build_spec(),
        tokenizer=build_tokenizer(folder),
        client=EngineClient(launch, client),
        max_model_len=CONTEXT,
        **options,
    )


def submit(llm: AsyncLLM, prompt: list[int], max_tokens: int = 32, *, name: str = "r", **params) -> OutputStream:
    sampling = SamplingParams(**({"max_tokens": max_tokens, "temperature": 0.0, "ignore_eos": True} | params))
    return llm.submit(llm.input.build(prompt, sampling, request_id=name))


async def collect(stream: OutputStream) -> list[OutputDelta]:
    async with asyncio.timeout(SECONDS):
        return [delta async for deltas in stream for delta in deltas]


def tokens_of(deltas: list[OutputDelta], choice: int = 0) -> list[int]:
    return [token for delta in deltas if delta.choice == choice for token in delta.token_ids]


def reference(prompt: list[int], max_tokens: int) -> list[int]:
    return expected_outputs(np.array(prompt), len(prompt) + max_tokens, ())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.002)
