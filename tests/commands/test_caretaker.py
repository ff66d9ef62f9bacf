"""The caretaker of `penstock demo` over small real processes that die, ignore SIGTERM or give up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

import psutil
import pytest

from penstock.commands.caretaker import Backoff
from support.serving import environment, free_port, wait_for


class Care:
    """A running caretaker with its output so far."""

    def __init__(self, folder, kind: str) -> None:
        self.ports, self.log = [free_port(), free_port()], folder / "log"
        words = [sys.executable, "-m", "support.scripted_members", kind, *map(str, self.ports)]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, env=environment())

    def lines(self) -> list[str]:
        return self.log.read_text().splitlines()

    def pids(self) -> list[int]:
        """Process ids of the members, once all are ready."""
        wait_for(lambda: any("demo: ready" in line for line in self.lines()), 20, "a ready line")
        return [int(word) for line in self.lines() if "demo: ready" in line for word in line.split()[2:]]

    def answers(self, index: int) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[index]}/", timeout=2):
                return True
        except OSError:
            return False


@pytest.fixture
def care(tmp_path) -> Iterator[Care]:
    running = Care(tmp_path, "steady")
    yield running
    running.process.kill()
    running.process.wait()


def everything_below(pid: int) -> list[psutil.Process]:
    return psutil.Process(pid).children(recursive=True)


def are_gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def test_a_process_starts_again_at_once_and_ever_later_if_it_keeps_dying_young():
    backoff = Backoff()
    assert [backoff.delay(0.1) for _ in range(4)] == [0.0, 1.0, 2.0, 4.0]
    assert [backoff.delay(0.1) for _ in range(10)][-1] == 30.0
    assert backoff.delay(100.0) == 0.0
    assert [backoff.delay(0.1) for _ in range(2)] == [0.0, 1.0]


def test_a_killed_member_goes_with_its_children_and_is_started_again_at_its_port(care):
    first, _ = care.pids()
    before = everything_below(first)
    assert len(before) == 1
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: are_gone(before), 5, "its child to die")
    wait_for(lambda: care.answers(0), 10, "it to answer again")
    assert any("pod-0 was killed by SIGKILL; starts again now" in line for line in care.lines())
    assert first not in [process.pid for process in everything_below(care.process.pid)]


def test_sigterm_ends_all_members_and_their_children_even_one_that_ignores_it(care):
    care.pids()
    before = everything_below(care.process.pid)
    assert len(before) == 4
    care.process.terminate()
    care.process.terminate()  # make and a process group may both pass it on
    assert care.process.wait(15) == 0
    wait_for(lambda: are_gone(before), 5, "all to be gone")


def test_kill_9_of_the_caretaker_leaves_nothing(care):
    care.pids()
    before = everything_below(care.process.pid)
    care.process.kill()
    care.process.wait()
    wait_for(lambda: are_gone(before), 5, "all to be gone")


def test_a_member_that_gives_up_at_the_first_start_ends_all_with_its_reason(tmp_path):
    care = Care(tmp_path, "gives-up")
    assert care.process.wait(20) == 1
    assert "wrong: no such flag" in care.lines()
    assert "wrong gave up with exit code 2 before the service was ready" in care.lines()[-1]
