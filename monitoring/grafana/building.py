"""From what a dashboard is about to the JSON that Grafana 11 and later take."""

import json
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

_SCHEMA = 39
"""Grafana's dashboard schema of version 11.0; later versions migrate it when they load it."""
_COLUMNS = 24
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

PROGRAM = 'program=~"$program"'
VARIANT = 'program=~"$program",variant=~"$variant"'
"""What the variables of every dashboard pick."""


class Query(msgspec.Struct, frozen=True):
    """One line or number of a panel. `legend` names its series by their labels: `{{program}}`."""

    expr: str
    legend: str
    instant: bool = False


class Panel(msgspec.Struct, frozen=True, kw_only=True):
    """One picture. `question` is what its owner asks, `answer` how to read it and what to do about it.

    `unit` is one of Grafana's, `limit` a line beyond which something is wrong, `wide` takes a whole row.
    """

    title: str
    question: str
    answer: str
    unit: str
    queries: tuple[Query, ...]
    kind: Literal["timeseries", "stat", "state-timeline", "bargauge"] = "timeseries"
    limit: float | None = None
    most: float | None = None
    stacked: bool = False
    wide: bool = False


class Annotation(msgspec.Struct, frozen=True):
    """Moments that are marked in every panel: where `expr` is above 0."""

    name: str
    expr: str
    text: str
    colour: str


class Dashboard(msgspec.Struct, frozen=True, kw_only=True):
    """A page of panels, for one kind of owner."""

    uid: str
    title: str
    description: str
    panels: tuple[Panel, ...]
    annotations: tuple[Annotation, ...]


def rendered(dashboard: Dashboard) -> str:
    """The dashboard as Grafana's JSON."""
    return json.dumps(built(dashboard), indent=1, ensure_ascii=False) + "\n"


def built(dashboard: Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana's object."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["ratchet"],
        "schemaVersion": _SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-24h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "type": "dashboards",
                "title": "Ratchet",
                "tags": ["ratchet"],
                "asDropdown": False,
                "keepTime": True,
                "includeVars": True,
            }
        ],
        "templating": {"list": _variables()},
        "annotations": {"list": [_annotation(annotation) for annotation in dashboard.annotations]},
        "panels": _placed(dashboard.panels),
    }


def _variables() -> list[dict[str, Any]]:
    source = {
        "type": "datasource",
        "name": "datasource",
        "label": "Prometheus",
        "query": "prometheus",
        "refresh": 1,
        "current": {},
        "hide": 0,
        "multi": False,
        "includeAll": False,
    }
    return [
        source,
        _picker("program", "label_values(ratchet_split_ratio, program)"),
        _picker("variant", f"label_values(ratchet_split_ratio{{{PROGRAM}}}, variant)"),
    ]


def _picker(name: str, query: str) -> dict[str, Any]:
    return {
        "type": "query",
        "name": name,
        "label": name.capitalize(),
        "datasource": _DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name, "qryType": 1},
        "refresh": 2,
        "sort": 1,
        "hide": 0,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _annotation(annotation: Annotation) -> dict[str, Any]:
    return {
        "name": annotation.name,
        "datasource": _DATASOURCE,
        "enable": True,
        "hide": False,
        "iconColor": annotation.colour,
        "expr": annotation.expr,
        "step": "60s",
        "titleFormat": annotation.name,
        "textFormat": annotation.text,
        "useValueForTime": False,
    }


def _placed(panels: Iterable[Panel]) -> list[dict[str, Any]]:
    """Two panels abreast, from the top; a wide one has its row for itself."""
    placed, x, y, height = [], 0, 0, 8
    for number, panel in enumerate(panels, start=1):
        width = _COLUMNS if panel.wide else _COLUMNS // 2
        if x + width > _COLUMNS:
            x, y = 0, y + height
        placed.append({"id": number, "gridPos": {"x": x, "y": y, "w": width, "h": height}, **_panel(panel)})
        x += width
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": f"**{panel.question}**\n\n{panel.answer}",
        "datasource": _DATASOURCE,
        "targets": _targets(panel.queries),
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _options(panel),
    }


def _targets(queries: Sequence[Query]) -> list[dict[str, Any]]:
    return [
        {
            "refId": chr(ord("A") + at),
            "datasource": _DATASOURCE,
            "editorMode": "code",
            "expr": query.expr,
            "legendFormat": query.legend,
            "range": not query.instant,
            "instant": query.instant,
        }
        for at, query in enumerate(queries)
    ]


def _field(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    field: dict[str, Any] = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}}
    if panel.most is not None:
        field |= {"min": 0, "max": panel.most}
    if panel.kind == "timeseries":
        field["custom"] = {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 0,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
            "thresholdsStyle": {"mode": "off" if panel.limit is None else "dashed"},
        }
    return field


def _options(panel: Panel) -> dict[str, Any]:
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []}
    reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    match panel.kind:
        case "timeseries":
            return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
        case "state-timeline":
            return {"legend": legend, "showValue": "never", "mergeValues": True, "rowHeight": 0.9}
        case "stat":
            return {"reduceOptions": reduced, "colorMode": "value", "graphMode": "area", "textMode": "auto"}
        case "bargauge":
            return {"reduceOptions": reduced, "displayMode": "basic", "orientation": "horizontal"}
