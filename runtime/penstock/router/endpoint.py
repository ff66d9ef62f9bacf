"""One pod as the router knows it: what it said last, and what that makes of it."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from penstock.internal.credentials import Caller
from penstock.internal.fleet import FleetEndpoint, endpoint_of
from penstock.internal.protocol import Load
from penstock.router.choose import Candidate

if TYPE_CHECKING:
    from penstock.router.upstream import Call

MAX_FAILURES = 2  # polls without an answer, in a row
MAX_STALLED = 20.0  # seconds without a step while there is work; steps are made to take 2.5 on an idle machine
HOPELESS = 60.0  # … after which even what the pod has is told to others
NEVER = float("-inf")


class State(enum.StrEnum):
    """What can be done with a pod."""

    READY = "ready"
    DRAINING = "draining"  # goes on with what it has
    LOADING = "loading"  # … so does this one, when its engine was started again
    DOWN = "down"
    REFUSED = "refused"  # it answers, but does not belong here


class Endpoint:
    """A pod at one address."""

    def __init__(self, address: str, role: str, caller: Caller) -> None:
        self.address = address  # ip:port of the internal port
        self.role = role  # as what it is listed: decode or prefill
        self.caller = caller
        self.is_listed = True  # False: it is only watched until its last request has ended
        self.load: Load | None = None  # the last one
        self.refusal = ""  # why it does not belong here
        self.failure = "not asked yet"  # why it does not answer; empty: it does
        self.polled_at = NEVER  # when it last answered …
        self.asked_at = NEVER  # … and when it was asked that
        self.full_until = NEVER  # it refused a request for lack of room
        self.num_polled_own = 0  # our requests there when it answered
        self.calls: set[Call] = set()  # of this process
        self._num_failures = 0
        self._is_gone = False  # nobody listens there

    @property
    def state(self) -> State:
        """What can be done with it now."""
        load = self.load
        if self.refusal:
            return State.REFUSED
        if load is None or self.failure or self.is_stalled:
            return State.DOWN
        if load.draining or not self.is_listed:
            return State.DRAINING
        return State.READY if load.ready else State.LOADING

    @property
    def why(self) -> str:
        """Why it cannot be used, if it is refused or down."""
        if self.refusal or self.failure:
            return self.refusal or self.failure
        return "the engine makes no steps" if self.is_stalled else ""

    @property
    def is_stalled(self) -> bool:
        """True if it answers, but its engine makes no progress: it hangs, or has a very long step."""
        return self.load is not None and self.load.stalled > MAX_STALLED

    @property
    def is_lost(self) -> bool:
        """True if nothing more is to be hoped of the requests that it has."""
        return self.state is State.DOWN and (bool(self.failure) or self._is_hopeless)

    @property
    def _is_hopeless(self) -> bool:
        return self.load is not None and self.load.stalled > HOPELESS

    @property
    def is_known(self) -> bool:
        """True if it answers and has said what it serves."""
        return not self.failure and self.load is not None

    def take_load(self, load: Load, *, began: float, now: float, num_own: int) -> None:
        """It answered a poll that was sent at `began`, while at most `num_own` requests of ours were there."""
        self.caller.learn(load.session, load.now, (began + now) / 2)
        self.load, self.failure, self._num_failures, self._is_gone = load, "", 0, False
        self.asked_at, self.polled_at, self.num_polled_own = began, now, num_own

    def take_failure(self, why: str, *, is_certain: bool = False) -> None:
        """It did not answer; it is down when that is certain, or happens again."""
        self._num_failures += 1
        self._is_gone = is_certain
        if is_certain or self._num_failures >= MAX_FAILURES or self.load is None:
            self.failure, self.refusal = why, ""

    def take_refusal(self, why: str) -> None:
        """It answered that it wants nothing from us."""
        self.failure = self.refusal = why

    def break_calls(self) -> None:
        """End all calls to it, so that their requests go elsewhere."""
        for call in list(self.calls):
            if self._is_gone or self._is_hopeless:
                call.break_off(self.why)
            else:
                call.give_up(self.why)

    def leave_stalled(self) -> None:
        """End the calls to it whose requests have not left a stalled pod before.

        A request that makes engines hang takes two of them at most, and one whose steps are just long stays at the
        second pod.
        """
        for call in list(self.calls):
            if call.may_leave:
                call.leave()

    def candidate(self, num_own: int, now: float) -> Candidate:
        """It as one that could get a request; `num_own`: requests of ours there, over all workers."""
        load = self.load
        assert load is not None, f"{self.address} is chosen before it was known"
        return Candidate(
            address=self.address,
            revision=load.revision,
            num_own=num_own,
            num_polled_own=self.num_polled_own,
            running=load.running,
            waiting=load.waiting,
            max_num_seqs=load.max_num_seqs,
            is_full=now < self.full_until,
            polled_at=self.polled_at,
        )

    def describe(self) -> FleetEndpoint:
        """It as `GET /fleet` shows it."""
        url, state = f"http://{self.address}", self.state
        if self.load is None:
            return FleetEndpoint(name="", role=self.role, url=url, state=state, why=self.why)
        seen = endpoint_of(self.load, url)
        values = {name: getattr(seen, name) for name in seen.__struct_fields__}
        if state is State.DOWN:  # what it holds is not known; what it did in its life does not change
            values |= {"running": 0, "waiting": 0, "queued_tokens": 0, "kv_usage": 0.0, "leases": 0}
        return FleetEndpoint(**(values | {"state": str(state), "why": self.why}))
