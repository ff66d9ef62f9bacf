"""State tables for sampler tests: rows that hold given tokens and parameters, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from penstock.core.plan import NewRow, StepPlan, no_ints
from penstock.sampling.params import SamplingParams
from penstock.worker.cpu.state_table import StateTable


def new_row(
    row: int, sampling: SamplingParams, prompt: Sequence[int], outputs: Sequence[int] = (), stop_ids: Sequence[int] = ()
) -> NewRow:
    """A row that holds a prompt and outputs."""
    return NewRow(
        row=row,
        token_ids=np.array([*prompt, *outputs], dtype=np.int32),
        num_prompt=len(prompt),
        num_computed=0,
        block_ids=no_ints(),
        sampling=sampling,
        stop_ids=tuple(stop_ids),
    )


def admit(table: StateTable, *rows: NewRow, freed: Sequence[int] = ()) -> None:
    """Tell the table of new and freed rows."""
    table.apply(
        StepPlan(
            step=0,
            freed_rows=np.array(freed, dtype=np.int32),
            new_rows=rows,
            block_rows=no_ints(),
            block_ids=no_ints(),
            rows=no_ints(),
            num_tokens=no_ints(),
        )
    )


def table_of(*samplings: SamplingParams, prompt: Sequence[int] = (1, 2, 3), num_rows: int = 64) -> StateTable:
    """A table whose first rows have these parameters and all the same prompt."""
    table = StateTable(num_rows, 64, 16)
    admit(table, *(new_row(row, sampling, prompt) for row, sampling in enumerate(samplings)))
    return table
