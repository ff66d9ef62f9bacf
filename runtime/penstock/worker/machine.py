"""What this process may use of the machine: cores and memory, with the limits of its control groups (Linux)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")


def num_cores(root: Path = ROOT) -> int:
    """Cores that this process may run on: its affinity, at most the whole cores of its cgroup CPU quota; at least 1."""
    cores = len(os.sched_getaffinity(0))
    for folder in _cgroup_folders(root, "cpu"):
        quota, period = _cpu_quota(folder)
        if quota is not None and period:
            cores = min(cores, quota // period)
    return max(1, cores)


def available_memory(root: Path = ROOT) -> int:
    """Bytes that can be taken without swapping or meeting a cgroup limit."""
    available = _meminfo(root)["MemAvailable"]
    for folder in _cgroup_folders(root, "memory"):
        limit = _first_number(folder, "memory.max", "memory.limit_in_bytes")
        used = _first_number(folder, "memory.current", "memory.usage_in_bytes")
        if limit is not None and used is not None:
            available = min(available, limit - used + _reclaimable(folder))
    return max(0, available)


def _meminfo(root: Path) -> dict[str, int]:
    """/proc/meminfo in bytes."""
    lines = (root / "proc/meminfo").read_text().splitlines()
    pairs = (line.split(":", 1) for line in lines)
    return {name: int(value.split()[0]) * 1024 for name, value in pairs}


def _cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders whose limits apply to this process: its own group and all above it, cgroup v2 and v1 alike."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / controllers  # v2 has no controllers here, v1 a folder for each set
        folder = top / path.lstrip("/")
        if not folder.is_dir():  # in a container the path may be the host's, while its own group is mounted on top
            folder = top
        while True:
            yield folder
            if folder == top:
                break
            folder = folder.parent


def _cpu_quota(folder: Path) -> tuple[int | None, int]:
    """Microseconds of CPU time per period, and the period; None means no limit."""
    if words := _read(folder / "cpu.max").split():
        return (None if words[0] == "max" else int(words[0])), int(words[1])
    quota = _first_number(folder, "cpu.cfs_quota_us")
    period = _first_number(folder, "cpu.cfs_period_us")
    return (quota if quota is not None and quota > 0 else None), period or 0


def _reclaimable(folder: Path) -> int:
    """Bytes of the group's page cache that the kernel gives back when memory is wanted."""
    for line in _read(folder / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _first_number(folder: Path, *names: str) -> int | None:
    """The number in the first of these files that exists and holds one."""
    for name in names:
        text = _read(folder / name).strip()
        if text.lstrip("-").isdecimal():
            return int(text)
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text()
    except OSError:
        return ""
