"""All pods of the service: who belongs to it, who can take requests."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

from penstock.internal.credentials import Caller, ClusterKeys
from penstock.logs import event
from penstock.router.choose import Candidate
from penstock.router.endpoint import Endpoint, State
from penstock.router.ledger import Ledger

ROLES = {"decode": ("decode", "both"), "prefill": ("prefill",)}  # listed as -> what it may be

_log = logging.getLogger("penstock.router")


class EndpointTable:
    """The pods by address. Whoever changes one says so with `settle`, which judges, logs, and tells the listeners."""

    def __init__(
        self, keys: ClusterKeys, ledger: Ledger, *, clock: Callable[[], float], level: int = logging.INFO
    ) -> None:
        """`level`: of what is logged of pods; where several workers see the same, one of them says it."""
        self._keys, self._ledger, self._clock, self._level = keys, ledger, clock, level
        self._endpoints: dict[str, Endpoint] = {}
        self._seen: dict[str, tuple[State, str]] = {}  # what was logged of each
        self._listeners: list[Callable[[], None]] = []
        self.model: str | None = None  # that the service serves, once known
        self.max_model_len = 0
        self.revision = ""

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._endpoints.values())

    def __len__(self) -> int:
        return len(self._endpoints)

    def __contains__(self, address: str) -> bool:
        return address in self._endpoints

    def __getitem__(self, address: str) -> Endpoint:
        return self._endpoints[address]

    def listen(self, act: Callable[[], None]) -> None:
        """Call `act` whenever a pod may have changed."""
        self._listeners.append(act)

    def list_only(self, listed: Sequence[tuple[str, str]]) -> list[Endpoint]:
        """Take over the list of (role, address); returns the pods that are new. Others stay until they are idle."""
        wanted = {address: role for role, address in reversed(listed)}
        new = []
        for address, role in sorted(wanted.items(), key=lambda item: (item[1], item[0])):
            if address not in self._endpoints:
                self._endpoints[address] = Endpoint(address, role, Caller(self._keys))
                new.append(self._endpoints[address])
        for endpoint in self:
            endpoint.is_listed = endpoint.address in wanted
        for endpoint in [one for one in self if not one.is_listed and not one.calls]:
            del self._endpoints[endpoint.address]
            self._seen.pop(endpoint.address, None)
            event(_log, "endpoint.removed", level=self._level, address=endpoint.address)
        return new

    def settle(self) -> None:
        """Draw the conclusions from what was learnt."""
        judge(sorted(self, key=lambda one: (one.role, one.address)))
        is_up = self.is_up
        for endpoint in self:
            state = endpoint.state
            if endpoint.calls and endpoint.is_lost:
                endpoint.break_calls()
            elif endpoint.calls and endpoint.is_stalled and is_up:
                endpoint.leave_stalled()
            if self._seen.get(endpoint.address) != (state, endpoint.why):
                self._note(endpoint, state)
        serving = next((one.load for one in self if one.load is not None and not one.refusal and one.load.model), None)
        if serving is not None:
            self.model, self.max_model_len, self.revision = serving.model, serving.max_model_len, serving.revision
        for act in self._listeners:
            act()

    def _note(self, endpoint: Endpoint, state: State) -> None:
        before = self._seen.get(endpoint.address)
        self._seen[endpoint.address] = (state, endpoint.why)
        is_problem = state in (State.DOWN, State.REFUSED)
        if is_problem and before is not None and before[0] is state and state is State.DOWN:
            return  # down in another way is no news
        level = max(self._level, logging.WARNING) if is_problem and self._level >= logging.INFO else self._level
        fields = {"why": endpoint.why} if is_problem else {}
        if endpoint.load is not None:
            fields |= {"pod": endpoint.load.name, "model": endpoint.load.model}
        event(_log, f"endpoint.{state}", level=level, address=endpoint.address, role=endpoint.role, **fields)

    def candidates(self) -> list[Candidate]:
        """The pods that take new requests."""
        now = self._clock()
        return [
            endpoint.candidate(self._ledger.count(endpoint.address), now)
            for endpoint in self
            if endpoint.role == "decode" and endpoint.state is State.READY
        ]

    @property
    def is_up(self) -> bool:
        """True if some pod takes new requests."""
        return any(endpoint.role == "decode" and endpoint.state is State.READY for endpoint in self)


def judge(endpoints: Sequence[Endpoint]) -> None:
    """Refuse the pods that do not fit to the others. The model and the KV layout that most have are the right ones."""
    known = [one for one in endpoints if one.is_known]
    for endpoint in known:
        endpoint.refusal = ""
    fitting = [one for one in known if _fits_role(one)]
    model = most_common(one.load.model for one in fitting if one.load is not None)
    names: dict[str, str] = {}
    layouts: dict[str, str | None] = {}
    for endpoint in fitting:
        load = endpoint.load
        assert load is not None, f"{endpoint.address} is known without a load"
        if load.revision not in layouts:
            layouts[load.revision] = most_common(
                one.load.fingerprint
                for one in fitting
                if one.load is not None and one.load.revision == load.revision and one.load.model == model
            )
        if load.model and load.model != model:
            endpoint.refusal = f"serves {load.model!r}, but the others serve {model!r}"
        elif load.fingerprint and load.fingerprint != layouts[load.revision]:
            endpoint.refusal = (
                "other weights or KV layout than the other pods of its revision (see --dtype and the like)"
            )
        elif load.name in names:
            endpoint.refusal = f"has the name {load.name!r}, which the pod at {names[load.name]} has already"
        else:
            names[load.name] = endpoint.address


def _fits_role(endpoint: Endpoint) -> bool:
    assert endpoint.load is not None, f"{endpoint.address} is known without a load"
    if endpoint.load.role in ROLES[endpoint.role]:
        return True
    endpoint.refusal = f"has the role {endpoint.load.role}, but is listed under --{endpoint.role}"
    return False


def most_common(values: Iterable[str]) -> str | None:
    """The value that most have, of equals the first; empty ones do not count."""
    counts = Counter(value for value in values if value)
    return max(counts, key=lambda value: counts[value]) if counts else None
