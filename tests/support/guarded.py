"""Tensors in allocations with poison before and behind them, to see that a kernel stays within what it was given."""

from __future__ import annotations

import dataclasses

import torch

MARGIN = 8192  # elements on each side: no tile of a kernel reaches further beyond an end
INTEGER = -7777


def poisoned(length: int, like: torch.Tensor) -> torch.Tensor:
    """Memory that spoils whatever is computed from it: NaN, or a number that is nobody's index."""
    if like.is_floating_point():
        return torch.full((length,), torch.nan, device=like.device).to(like.dtype)
    return torch.full((length,), INTEGER, device=like.device).to(like.dtype)


class Guards:
    """Moves tensors between guard zones; `broken()` tells which zones were written to."""

    def __init__(self) -> None:
        self._homes: dict[tuple, tuple[str, torch.Tensor, torch.Tensor, torch.Tensor]] = {}

    def house(self, value, name: str = ""):
        """`value` with every tensor in it moved; the same tensor in two places stays one."""
        if isinstance(value, torch.Tensor):
            return self._housed(value, name)
        if dataclasses.is_dataclass(value):
            fields = {
                one.name: self.house(getattr(value, one.name), f"{name}.{one.name}")
                for one in dataclasses.fields(value)
            }
            return dataclasses.replace(value, **fields)
        if isinstance(value, dict):
            return {key: self.house(one, f"{name}.{key}") for key, one in value.items()}
        return value

    def _housed(self, tensor: torch.Tensor, name: str) -> torch.Tensor:
        if tensor.numel() == 0:
            return tensor
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if key not in self._homes:
            extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
            home = poisoned(2 * MARGIN + extent, tensor)
            housed = home.as_strided(tensor.shape, tensor.stride(), MARGIN)
            housed.copy_(tensor)
            self._homes[key] = (name, home, housed, tensor)  # the old one too, lest its address is given to another
        return self._homes[key][2]

    def broken(self) -> list[str]:
        """Names of the tensors beside which something was written."""
        found = []
        for name, home, _, _ in self._homes.values():
            zones = torch.cat((home[:MARGIN], home[-MARGIN:]))
            if not torch.equal(zones.view(torch.uint8), poisoned(2 * MARGIN, home).view(torch.uint8)):
                found.append(name)
        return found
