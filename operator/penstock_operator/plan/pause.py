"""A rollout that somebody stopped: revisions keep what they have; only a changed number of pods is followed."""

from __future__ import annotations

from penstock_operator.plan.rollout import Counts, Revision, Rollout, Sizes


def paused_sizes(rollout: Rollout) -> Sizes:
    """Everything as it is, as long as it is within surge and unavailability; else the largest revision changes."""
    revisions = [*rollout.olds, rollout.new]
    counts: dict[str, Counts] = {one.name: {role: size.wanted for role, size in one.sizes.items()} for one in revisions}
    main = max(revisions, key=_weight)
    for role, goal in rollout.goals.items():
        if role not in main.sizes:
            continue
        is_mixed = sum(bool(each.get(role)) for each in counts.values()) > 1
        total = sum(each.get(role, 0) for each in counts.values())
        high = goal.replicas + (goal.surge if is_mixed else 0)
        low = goal.replicas - (goal.unavailable if is_mixed else 0)
        if goal.replicas == 0:
            for each in counts.values():
                each[role] = 0
        elif not low <= total <= high:
            counts[main.name][role] = max(0, counts[main.name][role] + min(max(total, low), high) - total)
    return Sizes(new=counts.pop(rollout.new.name), olds=counts)


def _weight(revision: Revision) -> tuple[int, int]:
    return sum(size.ready for size in revision.sizes.values()), sum(size.wanted for size in revision.sizes.values())
