"""`penstock bench serve` against a server that is there, and the chart it draws."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from penstock.bench.plot import write_plot
from penstock.bench.serve import best_row, model_name, rates_of
from penstock.errors import ConfigError, PenstockError


def test_rates_are_a_list_of_positive_numbers():
    assert rates_of("0.5,2") == [0.5, 2.0]
    for wrong in ("", "0", "1,x", "-1"):
        with pytest.raises(ConfigError, match="rates"):
            rates_of(wrong)


def test_a_url_without_a_server_is_one_clear_error():
    with pytest.raises(PenstockError, match="does not answer like an OpenAI server"):
        model_name("http://127.0.0.1:9")


def test_the_best_rate_is_the_one_with_most_goodput():
    nothing = {"goodput": float("nan"), "completed": 0.0}
    row = best_row({1.0: nothing, 2.0: {"goodput": 1.5, "completed": 2.0}, 4.0: {"goodput": 0.2, "completed": 3.0}})
    assert (row.value, row.ratio) == (1.5, 0.75)
    assert "2 req/s" in row.note


def test_the_chart_is_valid_svg_with_a_point_for_each_rate_that_has_a_figure(tmp_path):
    file = tmp_path / "plot.svg"
    write_plot(file, {1.0: {"goodput": 1.0, "TTFT p99": 10.0}, 2.0: {"goodput": 0.5, "TTFT p99": float("nan")}})
    root = ET.parse(file).getroot()
    assert len(root.findall(".//{*}polyline")) == 2
    assert len(root.findall(".//{*}circle")) == 3
