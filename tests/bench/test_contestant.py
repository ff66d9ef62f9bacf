"""Engines in processes of their own, one job after the other."""

from __future__ import annotations

import pytest

from penstock.bench.contestant import Contestant
from penstock.errors import PenstockError

ECHO = """
import sys, time
print("libraries print what they like")

def load(options):
    def generate(prompts, num_outputs):
        time.sleep(options["delay"])
        print("and now too")
        return [prompt[:num_outputs] for prompt in prompts]
    return {"generate": generate, "leave": lambda: sys.exit("good bye")}
"""


@pytest.fixture
def engine_file(tmp_path):
    file = tmp_path / "echo.py"
    file.write_text(ECHO)
    return file


def test_jobs_are_answered_with_the_time_they_took_whatever_the_engine_prints(engine_file):
    with Contestant("echo", engine_file, {"delay": 0.05}) as echo:
        answer = echo.generate([[1, 2, 3], [4, 5, 6]], 2)
        now, peak = echo.memory()
    assert answer.answer == [[1, 2], [4, 5]]
    assert 0.05 <= answer.seconds < 5
    assert 1e6 < now <= peak


def test_an_engine_that_dies_is_named_with_its_last_words(engine_file):
    with (
        Contestant("echo", engine_file, {"delay": 0}) as echo,
        pytest.raises(PenstockError, match=r"(?s)echo ended.*good bye"),
    ):
        echo.run("leave")


def test_an_engine_that_cannot_load_is_named_too(tmp_path):
    with pytest.raises(PenstockError, match=r"(?s)absent ended with exit code 1.*FileNotFoundError"):
        Contestant("absent", tmp_path / "absent.py", {})
