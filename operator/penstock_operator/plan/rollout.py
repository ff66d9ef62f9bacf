"""From one revision to the next in lockstep: how many pods each revision should have now. Numbers only, no state.

A revision serves with pairs of prefill and decode pods, so all its roles move together, in steps. Of `num_steps` steps
the new revision has taken as many as fit for every role (the minimum over roles), and an old one keeps as many as any
role still needs (the maximum). A step of a role with n pods is n / num_steps pods, rounded so that one pod of surge is
always enough to take the next step.

    n = 1 prefill, 4 decode     step      0      1      2      3      4
                                new     0+0    1+1    1+2    1+3    1+4
                                old     1+4    1+3    1+2    1+1    0+0
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Counts = dict[str, int]  # by role


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """Of one role."""

    replicas: int
    surge: int  # pods that may be beyond it during a rollout, those that are ending included
    unavailable: int  # pods that may be missing
    is_fixed: bool = False  # by the spec, not by load: a raise may wait for the new revision


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Pods of one role in one revision."""

    wanted: int = 0  # as its Deployment says
    staying: int = 0  # are there, and nobody ends them
    leaving: int = 0  # are ending, and still take room
    ready: int = 0
    troubled: int = 0  # of `staying`: something is wrong with them
    baseline: int = 0  # `wanted` when a rollout began to take from it; 0: none did

    @property
    def occupied(self) -> int:
        """Pods that take room, or will as soon as its controller looks."""
        return max(self.wanted, self.staying) + self.leaving

    @property
    def sound(self) -> int:
        """Pods worth keeping: serving, or starting as they should."""
        return self.staying - self.troubled

    @property
    def base(self) -> int:
        """What its steps are parts of."""
        return max(self.wanted, self.baseline)


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """By role. A role that is missing has no Deployment."""

    name: str
    sizes: Mapping[str, Size]

    @property
    def is_empty(self) -> bool:
        """True if it has and wants no pods."""
        return not any(size.occupied for size in self.sizes.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """GPUs for all pods together; None: no limit."""

    gpus: int | None
    per_pod: Mapping[str, int]

    def left(self, revisions: Sequence[Revision]) -> int | None:
        """After these revisions. Never negative."""
        if self.gpus is None:
            return None
        taken = sum(self.of(role, size.occupied) for one in revisions for role, size in one.sizes.items())
        return max(0, self.gpus - taken)

    def of(self, role: str, count: int) -> int:
        """GPUs of so many pods."""
        return self.per_pod.get(role, 0) * count


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What each Deployment should be set to."""

    new: Counts  # empty: the revision is not begun
    olds: dict[str, Counts]  # by revision
    is_over_budget: bool = False  # the next step fits everything but the budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One look at a service. `olds`: the oldest first."""

    goals: Mapping[str, Goal]
    new: Revision
    olds: tuple[Revision, ...]
    budget: Budget
    is_switched: bool = True  # clients reach the new revision; matters where it has other roles than the old ones

    @property
    def is_old_serving(self) -> bool:
        """True if an old revision has a ready pod."""
        return any(size.ready for old in self.olds for size in old.sizes.values())

    @property
    def num_steps(self) -> int:
        """0 if nothing is wanted."""
        return max((goal.replicas for goal in self.goals.values()), default=0)

    @property
    def step(self) -> int:
        """Steps of the new revision that are ready in all roles."""
        return self.last_step({role: self.size(role).ready for role in self.goals})

    @property
    def is_proven(self) -> bool:
        """True if the new revision serves, and nothing is wrong with it."""
        return self.step > 0 and not self.is_troubled

    @property
    def is_troubled(self) -> bool:
        """True if something is wrong with a pod of the new revision."""
        return any(size.troubled for size in self.new.sizes.values())

    @property
    def is_complete(self) -> bool:
        """True if the new revision is all there is to be."""
        return self.step == self.num_steps

    @property
    def is_changing_shape(self) -> bool:
        """True while all that serves has other roles than the new revision, and that is not complete."""
        has_other = bool(self.olds) and not any(one.sizes.keys() & self.goals.keys() for one in self.olds)
        return has_other and not self.is_complete

    def size(self, role: str) -> Size:
        """Of the new revision."""
        return self.new.sizes.get(role, Size())

    def part(self, role: str, step: int) -> int:
        """Pods of a role that the new revision has at a step: at least one, so that it can serve at all."""
        replicas = self.goals[role].replicas
        return 0 if step == 0 or replicas == 0 else max(1, step * replicas // self.num_steps)

    def last_step(self, counts: Mapping[str, int]) -> int:
        """The last step for which so many pods of each role are enough."""
        last = self.num_steps
        for role, goal in self.goals.items():
            if counts[role] <= 0 < goal.replicas:
                return 0
            if counts[role] < goal.replicas:
                last = min(last, ((counts[role] + 1) * self.num_steps - 1) // goal.replicas)
        return last


def next_sizes(rollout: Rollout) -> Sizes:
    """What to ask for now. Asked again and again, it ends with the new revision complete and the others empty."""
    olds = [one for one in rollout.olds if not one.is_empty]
    kept = keep(rollout, olds)
    if _is_stuck(rollout, olds, kept):
        kept = keep(rollout, olds, is_lockstep=False)
    new, is_over_budget = grow(
        rollout, {role: _occupied(olds, role) for role in rollout.goals}, rollout.budget.left(olds)
    )
    if not rollout.is_proven:
        _restore(rollout, olds, kept, new)
    return Sizes(
        new=new,
        olds={one.name: kept.get(one.name, dict.fromkeys(one.sizes, 0)) for one in rollout.olds},
        is_over_budget=is_over_budget,
    )


def grow(rollout: Rollout, occupied: Mapping[str, int], gpus: int | None) -> tuple[Counts, bool]:
    """Of the new revision, and whether only the budget ends its growth. `occupied`: by other revisions, per role."""
    is_rolling = any(occupied.values())
    room = {}
    for role, goal in rollout.goals.items():
        size = rollout.size(role)
        free = goal.replicas + goal.surge - occupied[role] - size.leaving if is_rolling else goal.replicas
        if is_rolling and not rollout.is_proven:  # a bad revision shall cost no more than its surge
            free = min(free, max(1, goal.surge + goal.unavailable))
        room[role] = max(free, size.wanted)
    step = fitting = rollout.last_step(room)
    if gpus is not None:
        limit = max(gpus, _gpus(rollout, _at(rollout, 0)))
        step = bisect_right(range(1, step + 1), limit, key=lambda one: _gpus(rollout, _at(rollout, one)))
    return _at(rollout, step), _at(rollout, fitting) != _at(rollout, step)


def keep(rollout: Rollout, olds: Sequence[Revision], *, is_lockstep: bool = True) -> dict[str, Counts]:
    """Of each old revision, what is needed still. The oldest counts first, so those in between are first to go."""
    step, kept = rollout.step, {}
    needs = {
        role: max(0, goal.replicas - goal.unavailable - rollout.part(role, step))
        for role, goal in rollout.goals.items()
    }
    for old in olds:
        if not old.sizes.keys() & needs.keys():  # of other roles altogether: it serves until clients reach the new one
            is_over = rollout.is_complete and rollout.is_switched
            kept[old.name] = {role: 0 if is_over else size.wanted for role, size in old.sizes.items()}
            continue
        counts = _keep_one(old, needs, is_lockstep)
        kept[old.name] = counts
        for role, count in counts.items():
            if role in needs:
                needs[role] = max(0, needs[role] - min(count, old.sizes[role].ready))
    return kept


def _keep_one(old: Revision, needs: Mapping[str, int], is_lockstep: bool) -> Counts:
    """Pods in trouble are not worth keeping, and none are added."""
    worth = {role: min(needs.get(role, 0), size.sound, size.wanted) for role, size in old.sizes.items()}
    if not is_lockstep:
        return worth
    num_steps = max(size.base for size in old.sizes.values())
    left = 0  # steps that this revision keeps: as many as any role needs
    for role, size in old.sizes.items():
        if worth[role] > 0:
            left = max(left, (worth[role] - 1) * num_steps // size.base + 1)
    return {
        role: min(size.wanted, -(-left * size.base // num_steps)) if num_steps else 0
        for role, size in old.sizes.items()
    }


def _is_stuck(rollout: Rollout, olds: Sequence[Revision], kept: Mapping[str, Counts]) -> bool:
    """True if lockstep leaves no room for the next step even when all that it gives up is gone."""
    occupied = {role: sum(kept[one.name].get(role, 0) for one in olds) for role in rollout.goals}
    sizes, _ = grow(rollout, occupied, None)
    has_all_ready = all(size.ready >= size.wanted for size in rollout.new.sizes.values())
    return not rollout.is_complete and has_all_ready and sizes == _at(rollout, 0)


def _restore(rollout: Rollout, olds: Sequence[Revision], kept: dict[str, Counts], new: Counts) -> None:
    """Where the new revision does not serve, the oldest one makes up for what is missing, within the surge."""
    gpus = rollout.budget.left(olds)
    if gpus is not None:
        gpus = max(0, gpus - _gpus(rollout, new))
    for role, goal in rollout.goals.items():
        oldest = next((one for one in olds if role in one.sizes), None)
        if oldest is None:
            continue
        missing = goal.replicas - goal.unavailable - rollout.part(role, rollout.step) - _wanted(olds, role)
        room = goal.replicas + goal.surge - _occupied(olds, role) - max(new[role], rollout.size(role).occupied)
        if goal.is_fixed and not rollout.is_troubled:  # who starts as it should brings what was not there before
            room = min(room, oldest.sizes[role].base - oldest.sizes[role].wanted)
        extra = max(0, min(missing, room))
        if gpus is not None and (each := rollout.budget.of(role, 1)):
            extra = min(extra, gpus // each)
            gpus -= extra * each
        if extra:
            kept[oldest.name][role] = oldest.sizes[role].wanted + extra


def _at(rollout: Rollout, step: int) -> Counts:
    """The new revision's pods at a step: what is there stays, but for what is beyond the goal."""
    return {
        role: min(goal.replicas, max(rollout.size(role).wanted, rollout.part(role, step)))
        for role, goal in rollout.goals.items()
    }


def _gpus(rollout: Rollout, counts: Counts) -> int:
    """Of the new revision, with all that is there and to be there: what is to go goes first."""
    sizes = {role: rollout.size(role) for role in rollout.goals}
    return sum(rollout.budget.of(role, max(counts[role], size.staying) + size.leaving) for role, size in sizes.items())


def _occupied(revisions: Sequence[Revision], role: str) -> int:
    return sum(one.sizes[role].occupied for one in revisions if role in one.sizes)


def _wanted(revisions: Sequence[Revision], role: str) -> int:
    return sum(one.sizes[role].wanted for one in revisions if role in one.sizes)
