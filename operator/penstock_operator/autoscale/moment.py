"""What a role's pods do, summed up: one scrape against the one before it."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

from penstock_operator.autoscale.signals import PodLoad, RoleLoad


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """All pods of a role that take new requests. `work`, `tokens` and `finished` are since the moment before."""

    at: float  # seconds since the epoch
    num_pods: int
    num_starting: int
    num_running: int
    num_waiting: int  # at pods and, without a pod yet, in routers
    num_slots: int  # sum of --max-num-seqs
    kv: float  # pods' worth of KV cache that is held
    queue: float  # seconds of prompts that wait, summed over pods
    seconds: float = 0.0  # since the moment before; 0: there was none
    work: float = 0.0  # seconds of computing prompts, summed over pods
    tokens: int = 0  # generated
    finished: int = 0  # answers that went out to their end, as routers count them

    @classmethod
    def of(cls, at: float, load: RoleLoad, held: int, before: tuple[float, RoleLoad] | None) -> Moment:
        """Sum it up. `before`: time and load of the moment before."""
        pods = load.pods.values()
        rates = [pod.prefill_rate for pod in pods if pod.prefill_rate]
        usual = fmean(rates) if rates else 0.0  # a pod that measured nothing yet is taken for as fast as the others
        seconds, work, tokens = 0.0, 0.0, 0
        if before is not None:
            seconds = at - before[0]
            pairs = [(before[1].pods[name], pod) for name, pod in load.pods.items() if name in before[1].pods]
            work = sum(_work(old, new, new.prefill_rate or usual, seconds) for old, new in pairs)
            tokens = sum(max(0, new.output_tokens - old.output_tokens) for old, new in pairs)
        return cls(
            at=at,
            num_pods=len(load.pods),
            num_starting=load.num_starting,
            num_running=sum(pod.running for pod in pods),
            num_waiting=sum(pod.waiting for pod in pods) + held,
            num_slots=sum(pod.max_num_seqs for pod in pods),
            kv=sum(pod.kv_usage for pod in pods),
            queue=sum(pod.queued_tokens / (pod.prefill_rate or usual) for pod in pods) if usual else 0.0,
            seconds=seconds,
            work=work,
            tokens=tokens,
        )


def _work(old: PodLoad, new: PodLoad, rate: float, seconds: float) -> float:
    """Of one pod; a life that began anew in between counts from its beginning."""
    computed = new.prompt_tokens - old.prompt_tokens
    if computed < 0:
        computed = new.prompt_tokens
    return min(seconds, computed / rate) if rate else 0.0
