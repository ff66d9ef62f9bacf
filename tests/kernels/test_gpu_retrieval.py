"""Finding a few tokens among very many in a float8 cache: what low precision costs must not grow with the context."""

from __future__ import annotations

import pytest
import torch

from penstock_kernels.gpu.attention_schedule import AttentionSchedule, TileShape
from penstock_kernels.gpu.kv_layout import quantised
from penstock_kernels.gpu.paged_attention import AttentionForm, Partials, Requests, paged_attention
from penstock_kernels.gpu.rope_kv_write import rope_kv_write
from penstock_kernels.kv_scales import KvScales

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
LENGTH, HEAD_DIM, BLOCK_SIZE, HEADS = 16384, 64, 16, 2
NEEDLES = (17, 5000, 9001, 16300)  # positions
NUM_WRITTEN = 48  # tokens that go through the kernel, the needles among them; the interpreter is slow
PAYLOADS = 64
CLOSE = 0.06
CLOSE_IF_WRITTEN = CLOSE if DEVICE.type == "cuda" else 0.2  # the interpreter halves what it rounds up to a power of two


class Haystack:
    """A context of random keys and values, and a query for each head that a few keys answer.

    The needles' values hold the same payload, one of `PAYLOADS` unit vectors that are nearly at right angles.
    """

    def __init__(self, strength: float, spread: float) -> None:
        generator = torch.Generator(DEVICE).manual_seed(3)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, device=DEVICE)

        self.payloads = torch.nn.functional.normalize(normal(PAYLOADS, HEAD_DIM), dim=1) * spread * 8
        self.query = normal(1, HEADS, HEAD_DIM)
        self.keys, self.values = spread * normal(2, LENGTH, HEAD_DIM)
        towards = torch.nn.functional.normalize(self.query[0].sum(dim=0), dim=0)
        self.keys[list(NEEDLES)] = strength * spread * towards
        self.values[list(NEEDLES)] = self.payloads[41]
        angles = torch.arange(LENGTH, device=DEVICE)[:, None] * 10000 ** -(
            torch.arange(HEAD_DIM // 2, device=DEVICE) * 2 / HEAD_DIM
        )
        self.cos_sin = torch.cat((angles.cos(), angles.sin()), dim=1)
        self.scale = HEAD_DIM**-0.5 / spread

    def unrotated(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What the rotation of those positions turns into `x` [n, D], so that contents are found at any distance."""
        cos, sin = self.cos_sin[positions].chunk(2, dim=1)
        first, second = x.chunk(2, dim=1)
        return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=1)

    def truth(self) -> torch.Tensor:
        """The answer in full precision. # [H, D]"""
        scores = self.query[0].double() @ self.keys.double().T * self.scale
        return (torch.softmax(scores, dim=1) @ self.values.double()).float()

    def answer(
        self, dtype: torch.dtype, scales: KvScales, *, num_programs: int, is_written: bool = True
    ) -> torch.Tensor:
        """What the kernels find in a cache of that type. # [H, D]"""
        num_blocks = LENGTH // BLOCK_SIZE
        cache = torch.empty(num_blocks, 1, 1, 2, BLOCK_SIZE, HEAD_DIM, device=DEVICE).to(dtype)
        block_table = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(2)).int().to(DEVICE)[None]
        for plane, (content, scale) in enumerate(((self.keys, scales.key), (self.values, scales.value))):
            by_block = quantised(content, scale, dtype).view(num_blocks, BLOCK_SIZE, HEAD_DIM)
            cache[block_table[0].long(), 0, 0, plane] = by_block
        if is_written:
            self._write(cache, block_table[0].long(), scales)
        schedule = AttentionSchedule.allocate(
            TileShape(tokens=1, keys=128), max_requests=1, max_tokens=0, num_programs=num_programs, device=DEVICE
        )
        starts, lengths, rows = (torch.tensor(one, device=DEVICE).int() for one in ([0, 1], [LENGTH], [0]))
        schedule.make(starts, lengths, num_kv_heads=1, window=0).run()
        out = torch.empty(1, HEADS, HEAD_DIM, device=DEVICE)
        for launch in paged_attention(
            self.query,
            cache,
            0,
            Requests(query_start_loc=starts, seq_lens=lengths, rows=rows, block_table=block_table),
            AttentionForm(scale=self.scale),
            schedule=schedule,
            partials=Partials.allocate(schedule, HEADS, HEAD_DIM, DEVICE),
            out=out,
            scales=scales,
        ):
            launch.run()
        return out[0]

    def _write(self, cache: torch.Tensor, blocks: torch.Tensor, scales: KvScales) -> None:
        """The needles and what is around them once more, as a model writes it."""
        others = torch.linspace(0, LENGTH - 1, NUM_WRITTEN - len(NEEDLES), device=DEVICE).long()
        positions = torch.cat((torch.tensor(NEEDLES, device=DEVICE), others))
        slots = blocks[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
        cache.view(-1, 2, BLOCK_SIZE, HEAD_DIM)[slots // BLOCK_SIZE, :, slots % BLOCK_SIZE] = 0
        keys = self.unrotated(self.keys[positions], positions)
        rope_kv_write(
            torch.cat((keys, keys, self.values[positions]), dim=1),
            cache,
            0,
            positions=positions.int(),
            slots=slots,
            cos_sin=self.cos_sin,
            query=torch.empty(len(positions), 1, HEAD_DIM, device=DEVICE),
            scales=scales,
        ).run()


def relative_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


@pytest.mark.parametrize(
    ("spread", "scales"),
    [(1.0, KvScales()), (300.0, KvScales(key=8.0, value=8.0)), (0.002, KvScales(key=1e-4, value=1e-4))],
    ids=["unscaled", "large", "small"],
)
def test_a_float8_cache_finds_the_needles_of_a_long_context(spread, scales):
    haystack = Haystack(strength=14.0, spread=spread)
    truth = haystack.truth()
    for is_written, allowed in ((True, CLOSE_IF_WRITTEN), (False, CLOSE)):
        found = haystack.answer(torch.float8_e4m3fn, scales, num_programs=7, is_written=is_written)
        assert relative_error(found, truth) < allowed
        assert (found @ haystack.payloads.T).argmax(dim=1).tolist() == [41] * HEADS
    if spread == 1.0:
        assert relative_error(haystack.answer(torch.float32, scales, num_programs=7), truth) < 1e-4


@pytest.mark.parametrize("num_programs", [1, 40])
def test_the_mean_of_a_long_context_keeps_its_size(num_programs):
    haystack = Haystack(strength=0.0, spread=1.0)
    haystack.query.zero_()  # every token weighs the same, 1 / 16384: sums in low precision stop growing long before
    haystack.values.add_(1.0)
    found = haystack.answer(torch.float8_e4m3fn, KvScales(), num_programs=num_programs, is_written=False)
    torch.testing.assert_close(found, haystack.truth(), rtol=0.01, atol=0.01)
