"""How many pods one replica of a role is: its workers, spread over the accelerators that each pod asks for."""

from __future__ import annotations

from penstock_operator.api.v1alpha1 import Engine, Role
from penstock_operator.desired.quantity import whole
from penstock_operator.errors import SpecError
from penstock_operator.names import PREFILL
from penstock_operator.service import Service

MOST_OFFERED = 16  # accelerators for a pod, in what we suggest


def gpus_of(role: Role) -> int:
    """GPUs, or parts of them (MIG), that one pod of a role asks for."""
    resources = role.resources
    if resources is None:
        return 0
    wanted = {**resources.requests, **resources.limits}  # of extended resources both are alike
    return sum(whole(count, name) for name, count in wanted.items() if name.endswith("/gpu") or "/mig-" in name)


def num_workers(service: Service) -> int:
    """Of one replica of any role: each has an accelerator of its own, or shares the pod's CPUs."""
    engine = service.spec.engine or Engine()
    return (engine.tensor_parallel or 1) * (engine.pipeline_parallel or 1)


def pods_per_replica(service: Service, role: str) -> int:
    """1, or as many as the workers need accelerators for; without accelerators all workers are in one pod."""
    gpus = gpus_of(service.roles[role])
    return -(-num_workers(service) // gpus) if gpus else 1


def gpus_per_replica(service: Service, role: str) -> int:
    """Of all pods of a replica: what the GPU budget counts."""
    return gpus_of(service.roles[role]) * pods_per_replica(service, role)


def check_shape(service: Service, role: str) -> None:
    """Raise `SpecError` where the user has set a number of workers that leaves accelerators of pods unused."""
    engine = service.spec.engine or Engine()
    gpus, workers = gpus_of(service.roles[role]), num_workers(service)
    is_open = engine.tensor_parallel is None and engine.pipeline_parallel is None
    if is_open or gpus == 0 or workers % gpus == 0:
        return
    field = "spec.prefill" if role == PREFILL else "spec.decode"
    fitting = [str(number) for number in range(1, min(workers, MOST_OFFERED) + 1) if workers % number == 0]
    offered = f"{', '.join(fitting[:-1])} or {fitting[-1]}" if len(fitting) > 1 else fitting[0]
    message = (
        f"each pod asks for {gpus} accelerators, and the {workers} workers of a replica (tensorParallel x"
        f" pipelineParallel) do not fill such pods: ask for {offered}"
    )
    raise SpecError("InvalidSpec", f"{field}.resources: {message}")
