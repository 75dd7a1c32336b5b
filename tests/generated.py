"""What is made from code and kept in the repository: `python -m tests.generated` writes it anew (`make generate`)."""

from pathlib import Path

from monitoring.grafana import learning, serving, trials
from monitoring.grafana.building import rendered
from monitoring.metrics import Metrics
from monitoring.reference import reference

ROOT = Path(__file__).parents[1]


def files() -> dict[Path, str]:
    """Each of them with its contents."""
    return {
        ROOT / "docs/reference/metrics.md": reference(Metrics().families),
        ROOT / "monitoring/grafana/serving.json": rendered(serving.DASHBOARD),
        ROOT / "monitoring/grafana/experiments-and-drift.json": rendered(trials.DASHBOARD),
        ROOT / "monitoring/grafana/learning-and-cost.json": rendered(learning.DASHBOARD),
    }


if __name__ == "__main__":
    for path, contents in files().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(contents)
