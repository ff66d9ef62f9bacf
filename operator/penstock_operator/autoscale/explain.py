"""Decisions as the status keeps them, each with a sentence for people."""

from __future__ import annotations

from penstock_operator.api.status import Decision
from penstock_operator.autoscale.decide import HELD, IDLE, LIMITS, Reason
from penstock_operator.autoscale.demand import BUSY, ITL, KV, QUEUE, SLOTS
from penstock_operator.timestamps import to_timestamp

SENTENCES = {
    QUEUE: "{value:.1f} s of prompts wait per pod, {target:g} s is the target",
    BUSY: "pods compute prompts {value:.0f} % of the time, {target:.0f} % is the target",
    KV: "the KV cache that the requests need is {value:.0f} % of what there is, {target:.0f} % is the target",
    SLOTS: "requests would take {value:.0f} % of the places of --max-num-seqs, {target:.0f} % is the target",
    ITL: "{value:.3f} s from token to token, {target:g} s is promised",
    IDLE: "nobody has asked anything for {value:.0f} s, {target:.0f} s is enough",
    HELD: "{value:.0f} requests wait at the router",
    LIMITS: "{value:.0f} pods are not within the limits",
}
LIMITED = {
    "growth": "no more are added before these are ready",
    "gpuBudget": "gpuBudget allows no more",
    "max": "max allows no more",
    "min": "min allows no fewer",
}


def build_decision(at: float, role: str, numbers: tuple[int, int], reason: Reason, *, is_advice: bool) -> Decision:
    """`numbers`: pods before and after. `is_advice`: nothing was done."""
    before, after = numbers
    if before == after:
        what = f"{role} stays at {after}"
    elif is_advice:
        what = f"{role} should go from {before} to {after} pods"
    else:
        what = f"{role} from {before} to {after} pods"
    why = SENTENCES[reason.signal].format(value=reason.value, target=reason.target)
    limited = f"; {LIMITED.get(reason.limited_by, reason.limited_by + ' sets the limits')}" if reason.limited_by else ""
    return Decision(
        time=to_timestamp(at),
        role=role,  # type: ignore[arg-type]  # one of the three, as Service.roles has them
        from_=before,
        to=after,
        signal=reason.signal,
        value=round(reason.value, 3),
        target=round(reason.target, 3),
        limited_by=reason.limited_by,
        message=f"{what}: {why}{limited}",
    )
