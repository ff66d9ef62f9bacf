from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import psutil
import pytest

from support.scripted_children import GRACE, LATE
from support.serving import environment, wait_for

SECONDS = 20


class Supervised:
    """A supervisor process with scripted children."""

    def __init__(self, folder, num_apis):
        self.folder = folder
        self.output = folder / "output"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "support.scripted_children", str(folder), str(num_apis)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment(),
            )

    @property
    def said(self):
        return self.output.read_text()

    def lives(self, name):
        """(number, process id) of every life that a child with this name had."""
        file = self.folder / "lives"
        lines = file.read_text().splitlines() if file.exists() else []
        return [(int(number), int(pid)) for who, number, pid in map(str.split, lines) if who == name]

    def wait_ready(self):
        wait_for(lambda: "ready after life" in self.said, SECONDS, "the ready line")

    def wait_end(self):
        return self.process.wait(SECONDS)

    def is_gone(self, pid):
        return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE

    def all_pids(self):
        file = self.folder / "lives"
        return [int(line.split()[2]) for line in file.read_text().splitlines()] if file.exists() else []

    def run_folders(self):
        return list(self.folder.glob("penstock-*"))


@contextmanager
def supervised(folder, num_apis=1):
    it = Supervised(folder, num_apis)
    try:
        yield it
    finally:
        if it.process.poll() is None:
            it.process.kill()
        it.process.wait()
        wait_for(lambda: all(map(it.is_gone, it.all_pids())), SECONDS, "the children's end")


def test_says_once_that_all_children_are_ready(tmp_path):
    with supervised(tmp_path, 3) as it:
        it.wait_ready()
        assert [len(it.lives(f"api-{n}")) for n in range(3)] == [1, 1, 1]
        assert it.said.count("ready after life 1") == 1
        assert [folder.stat().st_mode & 0o777 for folder in it.run_folders()] == [0o700]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_everything_in_order_with_code_0(tmp_path, number):
    with supervised(tmp_path, 2) as it:
        it.wait_ready()
        it.process.send_signal(number)
        assert it.wait_end() == 0
        assert all(map(it.is_gone, it.all_pids()))
        assert not it.run_folders()


def test_a_second_sigterm_changes_nothing_and_a_deaf_front_end_is_killed_after_the_grace_period(tmp_path):
    (tmp_path / "api.deaf").touch()
    with supervised(tmp_path) as it:
        it.wait_ready()
        it.process.send_signal(signal.SIGTERM)
        took = wait_for(lambda: it.process.poll() is not None or it.process.send_signal(signal.SIGTERM), SECONDS)
        assert GRACE + LATE - 0.1 < took < GRACE + LATE + 2
        assert it.wait_end() == 0


def test_a_second_ctrl_c_ends_at_once(tmp_path):
    (tmp_path / "api.deaf").touch()
    with supervised(tmp_path) as it:
        it.wait_ready()
        it.process.send_signal(signal.SIGINT)
        wait_for(lambda: "drain.begun" in it.said, SECONDS)
        it.process.send_signal(signal.SIGINT)
        took = wait_for(lambda: it.process.poll() is not None, SECONDS)
        assert took < 1
        assert it.wait_end() == 130
        assert not it.run_folders()


def test_a_signal_before_everything_is_ready_ends_it_at_once(tmp_path):
    (tmp_path / "engine.hangs").touch()
    with supervised(tmp_path) as it:
        wait_for(lambda: it.lives("engine"), SECONDS)
        it.process.send_signal(signal.SIGTERM)
        assert it.wait_end() == 0
        assert all(map(it.is_gone, it.all_pids()))


@pytest.mark.parametrize(("child", "code"), [("engine", 7), ("api", 8)])
def test_a_failure_at_the_first_start_is_one_line_and_its_exit_code(tmp_path, child, code):
    (tmp_path / f"{child}.fails").write_text("too little memory for that")
    with supervised(tmp_path) as it:
        assert it.wait_end() == code
        assert it.said == "penstock: error: too little memory for that\n"
        assert len(it.lives("engine")) <= 1
        assert not it.run_folders()


def test_a_child_that_is_killed_at_the_first_start_is_explained(tmp_path):
    (tmp_path / "engine.hangs").touch()
    with supervised(tmp_path) as it:
        wait_for(lambda: it.lives("engine"), SECONDS)
        os.kill(it.lives("engine")[0][1], signal.SIGKILL)
        assert it.wait_end() == 1
        assert it.said == "penstock: error: engine-core was killed (the machine may be out of memory)\n"


def test_a_dead_engine_core_is_started_again_and_every_front_end_hears_of_it(tmp_path):
    with supervised(tmp_path, 2) as it:
        it.wait_ready()
        os.kill(it.lives("engine")[0][1], signal.SIGKILL)
        wait_for(lambda: "process=engine-core life=2" in it.said, SECONDS)
        heard = tmp_path / "heard"
        wait_for(lambda: heard.exists() and len(heard.read_text().splitlines()) == 2, SECONDS)
        assert sorted(heard.read_text().splitlines()) == ["0 EngineDown(epoch=1)", "1 EngineDown(epoch=1)"]
        assert [number for number, _ in it.lives("engine")] == [1, 2]
        assert len(it.lives("api-0")) == 1


def test_a_dead_front_end_is_started_again_under_a_number_that_was_never_used(tmp_path):
    with supervised(tmp_path, 2) as it:
        it.wait_ready()
        os.kill(it.lives("api-1")[0][1], signal.SIGKILL)
        wait_for(lambda: "process=api-1 life=2" in it.said, SECONDS)
        assert [number for number, _ in it.lives("api-1")] == [1, 3]
        assert len(it.lives("engine")) == len(it.lives("api-0")) == 1


def test_an_engine_core_that_dies_again_and_again_is_given_up(tmp_path):
    with supervised(tmp_path) as it:
        it.wait_ready()
        for life in range(1, 6):
            wait_for(lambda life=life: len(it.lives("engine")) == life, SECONDS)
            os.kill(it.lives("engine")[-1][1], signal.SIGKILL)
        assert it.wait_end() == 1
        assert it.said.splitlines()[-1] == "penstock: error: engine-core died 5 times within 60 s; giving up"
        assert len(it.lives("engine")) == 5


def test_a_failure_at_a_later_start_is_tried_again(tmp_path):
    with supervised(tmp_path) as it:
        it.wait_ready()
        (tmp_path / "engine.fails").write_text("memory is not free yet")
        os.kill(it.lives("engine")[0][1], signal.SIGKILL)
        wait_for(lambda: len(it.lives("engine")) >= 3, SECONDS)
        (tmp_path / "engine.fails").unlink()
        wait_for(lambda: "process=engine-core life=" in it.said, SECONDS)
        assert "memory is not free yet" in it.said


def test_kill_9_of_the_supervisor_leaves_no_process_behind(tmp_path):
    with supervised(tmp_path, 2) as it:
        it.wait_ready()
        it.process.kill()
        it.process.wait()
        wait_for(lambda: all(map(it.is_gone, it.all_pids())), 5, "the children's end")


def test_an_engine_death_during_the_drain_is_still_repaired(tmp_path):
    (tmp_path / "api.deaf").touch()
    with supervised(tmp_path) as it:
        it.wait_ready()
        it.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "drain.begun" in it.said, SECONDS)
        os.kill(it.lives("engine")[0][1], signal.SIGKILL)
        wait_for(lambda: len(it.lives("engine")) == 2, SECONDS)
        assert it.wait_end() == 0
