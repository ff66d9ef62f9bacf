"""A router and its pods started for a benchmark, each pod on cores of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from penstock.bench.own_process import OwnProcess
from penstock.commands.members import HOST, ServicePlan, build_members, free_ports, write_key
from penstock.commands.top import fetch
from penstock.internal.fleet import Fleet


class OwnService:
    """Pods of these roles behind a router; use it in a `with` statement. All of them are ready after `wait_ready`.

    `cores`: those of each pod, one entry for each role. The router is not pinned.
    """

    def __init__(self, model: str, roles: Sequence[str], cores: Sequence[Sequence[int]], words: Sequence[str]) -> None:
        [router_port, *ports] = free_ports(1 + 2 * len(roles))
        self.url = f"http://{HOST}:{router_port}"
        self._processes: list[OwnProcess] = []
        with ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-bench-"))
            plan = ServicePlan(
                model=model,
                roles=tuple(roles),
                pod_words=tuple(words),
                router_host=HOST,
                router_port=router_port,
                key_file=write_key(Path(folder)),
            )
            for member, its_cores in zip(build_members(plan, ports), [*cores, ()], strict=True):
                process = OwnProcess(member.command, member.ready_url, cores=its_cores)
                self._processes.append(stack.enter_context(process))
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def wait_ready(self) -> None:
        """Wait for all of them. Raises `PenstockError` if one ends before."""
        for process in self._processes:
            process.wait_ready()

    def fleet(self) -> Fleet:
        """What the router says of the pods now."""
        return fetch(self.url)

    def moved(self) -> tuple[int, int]:
        """(KV transfers that ended well, their bytes) over all pods until now."""
        totals = [endpoint.transfers for endpoint in self.fleet().endpoints]
        return sum(each.count for each in totals), sum(each.bytes for each in totals)
