"""Limits of the machine, read from a copy of /proc and /sys."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from penstock.worker.machine import available_memory, num_cores

MIB = 1 << 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "proc/meminfo", "MemTotal:       4096000 kB\nMemAvailable:    2048000 kB\n")
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_without_control_groups_the_machine_is_the_limit(root: Path):
    assert available_memory(root) == 2_048_000 * 1024
    assert num_cores(root) == len(os.sched_getaffinity(0))


def test_the_tightest_group_above_this_process_counts(root: Path):
    write(root, "proc/self/cgroup", "0::/pod/container\n")
    write(root, "sys/fs/cgroup/pod/container/memory.max", "max\n")
    write(root, "sys/fs/cgroup/pod/container/memory.current", "5\n")
    write(root, "sys/fs/cgroup/pod/container/cpu.max", "max 100000\n")
    write(root, "sys/fs/cgroup/pod/memory.max", f"{500 * MIB}\n")
    write(root, "sys/fs/cgroup/pod/memory.current", f"{300 * MIB}\n")
    write(root, "sys/fs/cgroup/pod/memory.stat", f"anon 1\ninactive_file {50 * MIB}\n")
    write(root, "sys/fs/cgroup/pod/cpu.max", "150000 100000\n")
    assert available_memory(root) == 250 * MIB
    assert num_cores(root) == 1


def test_a_container_that_sees_its_own_group_on_top(root: Path):
    write(root, "proc/self/cgroup", "0::/path/of/the/host\n")
    write(root, "sys/fs/cgroup/memory.max", f"{100 * MIB}\n")
    write(root, "sys/fs/cgroup/memory.current", f"{120 * MIB}\n")
    assert available_memory(root) == 0


def test_version_1_groups(root: Path):
    write(root, "proc/self/cgroup", "4:memory:/job\n3:cpu,cpuacct:/job\n1:name=systemd:/job\n")
    write(root, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", f"{80 * MIB}\n")
    write(root, "sys/fs/cgroup/memory/job/memory.usage_in_bytes", f"{30 * MIB}\n")
    write(root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")
    write(root, "sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n")
    write(root, "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "100000\n")
    write(root, "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n")
    write(root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n")
    assert available_memory(root) == 50 * MIB
    assert num_cores(root) == 1


def test_this_machine_has_some_of_both():
    assert num_cores() >= 1
    assert available_memory() > 0
