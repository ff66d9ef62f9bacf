"""The download of the model into the shared volume, as planning looks at it: is it over, and which Jobs are not needed.

The Job is all that is known of it: one that has succeeded stays, as long as the service asks for that model.
"""

from __future__ import annotations

from collections.abc import Iterable

from penstock_operator.desired.children import Children
from penstock_operator.kinds import JOB
from penstock_operator.observed.seen import Observed
from penstock_operator.plan.actions import Delete
from penstock_operator.service import Manifest


def wanted_job(children: Children) -> Manifest | None:
    """The Job that fills the volume; None if nothing of ours does."""
    return next((manifest for manifest in children.applied if manifest["kind"] == JOB.kind), None)


def job_of(children: Children, observed: Observed) -> Manifest | None:
    """That Job, as it is there."""
    wanted = wanted_job(children)
    return None if wanted is None else observed.children.get((JOB, wanted["metadata"]["name"]))


def is_loaded(children: Children, observed: Observed) -> bool:
    """True if a pod of the newest revision has found the model. Whoever deletes the Job then deletes nothing else."""
    return any(pod.is_ready and pod.revision == children.revision for pod in observed.pods)


def is_fetched(children: Children, observed: Observed) -> bool:
    """True if no pod of the newest revision would have to wait for its model."""
    if wanted_job(children) is None or is_loaded(children, observed):
        return True
    job = job_of(children, observed)
    return job is not None and bool(job.get("status", {}).get("succeeded"))


def stale_jobs(children: Children, observed: Observed) -> Iterable[Delete]:
    """Those that fetch, or fetched, what is not asked for any more. Pods of old revisions need none: who still waits
    for an old model waits in vain, and who serves has it."""
    wanted = wanted_job(children)
    for (kind, name), manifest in observed.children.items():
        if kind == JOB and (wanted is None or wanted["metadata"]["name"] != name):
            why = "another model, or none, is to be fetched"
            yield Delete(kind=kind, name=name, uid=manifest["metadata"]["uid"], why=why)
