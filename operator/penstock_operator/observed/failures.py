"""Pods that have ended: whoever made them makes others, which tell more; unless those end, too."""

from __future__ import annotations

import math
from collections.abc import Sequence

from penstock_operator.observed.seen import PodSeen

ENDED = FAILED, SUCCEEDED = "Failed", "Succeeded"


def living(pods: Sequence[PodSeen]) -> tuple[PodSeen, ...]:
    """Those that have not ended, by name."""
    return tuple(sorted((pod for pod in pods if pod.phase not in ENDED), key=lambda pod: pod.name))


def failures(pods: Sequence[PodSeen]) -> tuple[PodSeen, ...]:
    """Those that failed, such as the evicted, if none that came after them has become ready; the newest first."""
    cured: dict[tuple[str, str], float] = {}
    for pod in pods:
        if pod.is_ready or (pod.phase == SUCCEEDED and pod.trouble is None):
            place = pod.role, pod.revision
            cured[place] = max(pod.created, cured.get(place, -math.inf))
    found = [pod for pod in pods if _has_failed(pod) and pod.created > cured.get((pod.role, pod.revision), -math.inf)]
    return tuple(sorted(found, key=lambda pod: -pod.created))


def _has_failed(pod: PodSeen) -> bool:
    """True if it came to an end that nobody wanted."""
    return pod.phase == FAILED or (pod.phase == SUCCEEDED and pod.trouble is not None)
