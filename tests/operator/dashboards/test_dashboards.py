"""Dashboards and alerts ask for metrics that exist, in PromQL that parses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import promql_parser
import pytest
import yaml

from penstock.router.metric_names import build_families as router_families
from penstock.server.metric_names import build_families as pod_families
from penstock_operator.desired.monitoring import build_alerts
from penstock_operator.metrics import Metrics
from support.operator_services import PAIR, build_service

FOLDER = Path(__file__).parent.parent.parent.parent / "charts/penstock/dashboards"
GAUGES = ("penstock_operator_queue_length", "penstock_operator_services", "penstock_operator_leading")


def known() -> set[str]:
    families = {one.name for one in (*pod_families("m", "both", 16), *router_families("1"))}
    counted = {f"{one.name}_total" for one in Metrics().registry.collect() if one.type == "counter"}
    return families | counted | set(GAUGES)


def panels() -> list[tuple[str, str]]:
    found = json.loads((FOLDER / "service.json").read_text())["panels"]
    return [(panel["title"], target["expr"]) for panel in found for target in panel["targets"]]


def operator_rules() -> list[tuple[str, str]]:
    groups = yaml.safe_load((FOLDER / "operator-alerts.yaml").read_text())["groups"]
    return [(rule["alert"], rule["expr"]) for group in groups for rule in group["rules"]]


def service_rules() -> list[tuple[str, str]]:
    return [(alert.name, alert.expr) for alert in build_alerts(build_service(PAIR | {"slo": {"ttft": "500ms"}}))]


@pytest.mark.parametrize(("name", "expr"), [*panels(), *operator_rules(), *service_rules()])
def test_what_is_asked_for_parses_and_exists(name, expr):
    promql_parser.parse(expr)
    asked = {word.removesuffix("_bucket") for word in re.findall(r"\bpenstock_[a-z_]+(?=[{\[)\s]|$)", expr)}
    asked -= {"penstock_dev_service"}
    assert asked
    assert asked <= known()


def test_panels_have_ids_of_their_own_and_do_not_overlap():
    found = json.loads((FOLDER / "service.json").read_text())["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in found}
    assert len(places) == len(found)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in found)
