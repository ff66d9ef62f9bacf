"""Roles that share GPUs: who gets what is left. Pure integers."""

from __future__ import annotations

from collections.abc import Mapping


def fit(
    wanted: Mapping[str, int],
    current: Mapping[str, int],
    least: Mapping[str, int],
    gpus: Mapping[str, int],
    budget: int,
) -> dict[str, int]:
    """The wanted pods, or as many as the budget has GPUs for.

    `gpus`: per pod of a role; a role without GPUs costs nothing. Nobody loses a pod to another's growth here: who wants
    fewer than it has gets fewer, who wants more shares what is left, one pod after the other to whoever has got the
    smallest share of its wish. Only if even what is there is too much, the largest share gives, down to `least`.
    """
    result = {role: min(number, max(current[role], least[role])) for role, number in wanted.items()}
    costly = [role for role in wanted if gpus[role]]

    def cost() -> int:
        return sum(result[role] * gpus[role] for role in costly)

    def share(role: str) -> tuple[float, str]:
        return (result[role] / max(1, wanted[role]), role)

    while cost() > budget and (giving := [role for role in costly if result[role] > least[role]]):
        result[max(giving, key=share)] -= 1
    for role in wanted.keys() - set(costly):
        result[role] = wanted[role]
    while growing := [role for role in costly if result[role] < wanted[role] and cost() + gpus[role] <= budget]:
        result[min(growing, key=share)] += 1
    return result
