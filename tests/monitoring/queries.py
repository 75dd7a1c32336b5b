"""Every PromQL that is kept in the repository: of panels, variables, annotations, recording rules and alerts."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "monitoring/grafana").glob("*.json"))
RULES = ROOT / "monitoring/prometheus/rules.yaml"
_COMPARED = re.compile(r"(>=|<=|==|!=|>|<)(?= )")
_SELECTOR = re.compile(r"[a-z_:]*ratchet_[a-z0-9_:]+(?:\{[^}]*\})?")
_BETWEEN_BRACES = re.compile(r"\{[^}]*\}")


class Query(NamedTuple):
    """One expression, and where it stands."""

    place: str
    expr: str


def panels() -> Iterator[Query]:
    """What every panel shows."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                yield Query(f"{path.stem}: {panel['title']}", target["expr"])


def annotations() -> Iterator[Query]:
    """What every annotation marks."""
    for path in DASHBOARDS:
        for annotation in json.loads(path.read_text())["annotations"]["list"]:
            yield Query(f"{path.stem}: {annotation['name']}", annotation["expr"])


def variables() -> Iterator[Query]:
    """What every variable is picked from: the series, and after them the label."""
    for path in DASHBOARDS:
        for variable in json.loads(path.read_text())["templating"]["list"]:
            if variable["type"] == "query":
                yield Query(f"{path.stem}: ${variable['name']}", variable["definition"])


def rules() -> list[dict[str, Any]]:
    """Every recording rule and alert."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """Every alert."""
    return [rule for rule in rules() if "alert" in rule]


def ruled() -> Iterator[Query]:
    """What every recording rule and alert computes."""
    for rule in rules():
        yield Query(rule.get("alert") or rule["record"], rule["expr"])


def filled(expr: str) -> str:
    """The expression as Grafana sends it, with everything picked."""
    for variable, value in {
        "$__rate_interval": "10s",
        "$__range": "1m",
        "$program": ".*",
        "$variant": ".*",
    }.items():
        expr = expr.replace(variable, value)
    return expr


def unconditional(expr: str) -> list[str]:
    """The expression without its conditions: it has series whether it holds or not, as long as what it names is there.

    Comparisons tell 0 or 1, what must not be there has to be, and of alternatives each has to have series.
    """
    said = re.sub(r"absent\((.*)\)", r"\1", expr).replace(" unless ", " and ")
    said = re.sub(r" offset \w+", "", said)
    return [_COMPARED.sub(r"\1 bool", part) for part in said.split("\nor " if "\nor " in said else " or ")]


def selectors(expr: str) -> list[str]:
    """Every series that the expression names, by name and labels."""
    return _SELECTOR.findall(expr)


def names(expr: str) -> set[str]:
    """The names of the families in an expression."""
    return {selector.partition("{")[0] for selector in selectors(_BETWEEN_BRACES.sub("", expr))}
