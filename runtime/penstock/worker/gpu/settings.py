"""What a worker on a GPU is not asked to do, whatever the GPU. No torch: `penstock serve` checks it first thing."""

from __future__ import annotations

from penstock.config import EngineConfig
from penstock.errors import ConfigError


def check_gpu_settings(config: EngineConfig) -> None:
    """Raise `ConfigError` for a setting that this version does on a CPU alone."""
    if config.model.quantization is not None:
        raise ConfigError(
            "quantization", f"{config.model.quantization} is for the CPU so far; leave it out, or use --device cpu"
        )
    if config.compute.optimize == 2 and config.compute.deterministic:
        raise ConfigError(
            "optimize",
            "2 (torch.compile) computes a row as suits the batch, --deterministic must not; use --optimize 1",
        )
