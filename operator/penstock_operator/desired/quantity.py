"""Kubernetes' quantities as numbers."""

from __future__ import annotations

import re
from fractions import Fraction

from penstock_operator.errors import SpecError

FORM = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?")
UNITS = {"": Fraction(1), "m": Fraction(1, 1000)}
UNITS |= {letter: Fraction(1000**power) for power, letter in enumerate("kMGTP", start=1)}
UNITS |= {letter + "i": Fraction(1024**power) for power, letter in enumerate("KMGTP", start=1)}


def whole(quantity: int | str, field: str) -> int:
    """A quantity such as 1500m, 2Gi or 7, rounded up. Raises `SpecError` that names the field."""
    match = FORM.fullmatch(str(quantity))
    if match is None:
        raise SpecError("InvalidSpec", f"{field}: {quantity!r} is no quantity such as 500m, 4 or 2Gi")
    return -int(-Fraction(match[1]) * UNITS[match[2] or ""] // 1)
