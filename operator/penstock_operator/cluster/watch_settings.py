"""How kopf watches: what the API server selects, for how long it is asked, and that nothing is written."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import kopf

from penstock_operator.cluster.kube import PAGE
from penstock_operator.cluster.resync import selector_of
from penstock_operator.kinds import Kind


class Backoffs:
    """Seconds between attempts, without end: kopf ends the process when attempts run out."""

    def __iter__(self) -> Iterator[float]:
        return itertools.chain((0.5, 1.0, 2.0), itertools.repeat(5.0))


def build_settings(kinds: Sequence[Kind]) -> kopf.OperatorSettings:
    """Settings with which kopf reads what we ask for and writes nothing."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True  # it would watch CustomResourceDefinitions and namespaces, which needs rights
    settings.networking.error_backoffs = Backoffs()
    settings.networking.request_timeout = 60.0
    settings.networking.connect_timeout = 5.0
    settings.queueing.idle_timeout = 0.1  # for which an object that has been told of is kept in memory
    settings.watching.chunk_size = PAGE
    for kind in kinds:
        if selector := selector_of(kind):  # on the server's side
            settings.watching.label_selectors[kind.group, kind.api_version.rpartition("/")[2], kind.plural] = selector
    return settings
