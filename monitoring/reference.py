"""The reference page of the metrics, made from the families themselves: `docs/reference/metrics.md`."""

from collections.abc import Iterable

from monitoring.families import LABELS, Family, most_series

_SIZES = {"program": 50, "variant": 4, "metric": 4, "signal": 7, "job": 10, "version": 1}
"""A large installation, for the budget shown."""

_PAGE = """# Metrics

Made from the code by `make generate`; do not edit.

`/metrics` is open to whoever reaches the port. It answers in Prometheus's text format, and in OpenMetrics, with trace
ids as exemplars of `ratchet_prediction_duration_seconds`, where the scraper asks for that.

**Several processes**: scrape each of them. Sum what counts events. What is marked *leader* is read from the database
and shown by the one process that leads, so `max` and `sum` over processes are both right; after a change of leader the
new one shows it within a tick, and what takes a survey of the last day within a minute.

## Families

| family | type | shown by | labels | meaning |
|---|---|---|---|---|
{families}

## Labels

| label | tells | values |
|---|---|---|
{labels}

## How many series

Series follow the variants on traffic, not those ever made: what is counted for the others is under one label, and their
own series go with them. A process shows at most the numbers below.

With {sizes} that is {total:,} on the leader.

| family | series |
|---|---|
{series}

P programs, V variants on traffic in each, M metrics, S signals, J jobs.
"""
_LETTERS = {"program": "P", "variant": "V", "metric": "M", "signal": "S", "job": "J", "version": "1"}


def reference(families: Iterable[Family]) -> str:
    """The page."""
    listed = list(families)
    sizes = ", ".join(f"{_SIZES[name]} {name}s" for name in ("program", "variant", "metric", "signal", "job"))
    return _PAGE.format(
        families="\n".join(_row(family) for family in listed),
        labels="\n".join(
            f"| `{name}` | {label.meaning} | {', '.join(f'`{value}`' for value in label.values)} |"
            for name, label in LABELS.items()
        ),
        sizes=sizes.replace("4 variants", "4 variants on traffic in each"),
        total=most_series(listed, _SIZES),
        series="\n".join(f"| `{family.name}` | {_formula(family)} |" for family in listed),
    )


def _row(family: Family) -> str:
    labels = ", ".join(f"`{label}`" for label in family.labels)
    return f"| `{family.name}` | {family.kind} | {'leader' if family.led else 'each'} | {labels} | {family.meaning} |"


def _formula(family: Family) -> str:
    """The most series it can have, in letters."""
    parts = [str(len(family.buckets) + 3)] if family.kind == "histogram" else []
    for name in family.labels:
        values = LABELS[name].values
        letter = f"({_LETTERS[name]} + 1)" if name == "variant" and not family.led else _LETTERS.get(name)
        parts.append(str(len(values)) if values else letter or "1")
    return " × ".join(parts) or "1"
