"""Work that the transfer thread does beside other work: a little at a time, each part well under a step's length."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.kv_transfer.messages import TransferOutput

# What a job yields: an answer to send, or whether it did something (True: go on at once; False: it has to wait).
Progress = TransferOutput | bool
Job = Iterator[Progress]
