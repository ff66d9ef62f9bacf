"""What a worker on a GPU knows of its model and its largest step before anything is there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from penstock.attention.backend import AttentionNeeds
from penstock.config import EngineConfig
from penstock.layers.compiled import intermediate_bytes
from penstock.layers.weight_form import WeightForm
from penstock.layers.workspace import StepLimits, Workspace
from penstock.models.blocks import CausalLM
from penstock.models.registry import compute_type
from penstock.models.spec import ModelSpec
from penstock.worker.gpu.graphs import GraphSizes
from penstock.worker.gpu.memory import graph_bytes
from penstock.worker.gpu.state_table import DeviceTable
from penstock.worker.gpu.step_memory import StepMemory
from penstock.worker.kv_memory import KVLayout, choose_max_model_len
from penstock_kernels.gpu.ops import GpuOps


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What follows from model and configuration alone."""

    spec: ModelSpec
    layout: KVLayout
    limits: StepLimits
    max_model_len: int
    dtype: torch.dtype  # of weights and activations

    @classmethod
    def of(cls, folder: Path, config: EngineConfig) -> Shape:
        """The shape of a folder's model. Raises `ModelError` and `ConfigError`."""
        spec, scheduler = ModelSpec.from_folder(folder), config.scheduler
        return cls(
            spec=spec,
            layout=KVLayout.of(spec, config),
            limits=StepLimits(max_tokens=scheduler.max_num_batched_tokens, max_requests=scheduler.max_num_seqs),
            max_model_len=choose_max_model_len(config, spec),
            dtype=WeightForm(compute=compute_type(config), bits=None).dtype,
        )

    def attention_needs(self, device: torch.device, config: EngineConfig) -> AttentionNeeds:
        """What attention must be able to do."""
        return AttentionNeeds.of(
            self.spec,
            device=device,
            dtype=self.dtype,
            kv_dtype=self.layout.dtype,
            block_size=self.layout.block_size,
            max_requests=self.limits.max_requests,
            max_tokens=self.limits.max_tokens,
            is_deterministic=config.compute.deterministic,
        )

    def graph_sizes(self, config: EngineConfig, *, has_decode: bool) -> GraphSizes:
        """What is captured; `has_decode`: attention can be."""
        if config.compute.optimize == 0:
            return GraphSizes()
        limits = self.limits
        return GraphSizes.up_to(max_requests=limits.max_requests, max_tokens=limits.max_tokens, has_decode=has_decode)

    def compiled_bytes(self, config: EngineConfig, graphs: GraphSizes) -> int:
        """What compiled code takes beside the workspace: in steps without graphs, and in the pool of all graphs."""
        if config.compute.optimize < 2:
            return 0
        captured = max((*graphs.decode, *graphs.mixed), default=0)
        return sum(intermediate_bytes(self.spec, count, self.dtype) for count in (self.limits.max_tokens, captured))

    def needs(self, config: EngineConfig, graphs: GraphSizes) -> dict[str, int]:
        """Bytes by component, of what is known before anything is loaded."""
        ops = GpuOps(torch.device("cpu"), self.dtype)
        form = WeightForm(compute=compute_type(config), bits=None)
        slots = CausalLM(self.spec, ops=ops, form=form, max_length=1).slots().values()
        rotary = 4 * self.max_model_len * self.spec.head_dim
        return {
            "weights": sum(math.prod(slot.shape) for slot in slots) * self.dtype.itemsize + rotary,
            "workspace": Workspace.num_bytes(self.spec, self.limits, self.dtype) + self.compiled_bytes(config, graphs),
            "state_table": DeviceTable.num_bytes(self.limits.max_requests, self.max_model_len, self.layout.block_size),
            "sampling": StepMemory.num_bytes(
                (self.limits.max_tokens, self.spec.hidden_size),
                self.dtype,
                vocab_size=self.spec.vocab_size,
                max_num_seqs=self.limits.max_requests,
            ),
            "graphs": graph_bytes(self.spec.num_layers, len(graphs.decode) + len(graphs.mixed)),
        }
