"""Facts to store, each valid in itself; a test states what it is about and leaves the rest."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from experiments.facts import Call, Content, Outcome, Prediction, Remark
from server.store import Store


def prediction(**stated: Any) -> Prediction:
    values: dict[str, Any] = {
        "prediction_id": str(uuid4()),
        "program": "triage",
        "experiment_id": "experiment",
        "epoch": 1,
        "unit_hash": "unit",
        "assigned_variant": "base",
        "variant": "base",
        "propensity": 0.5,
        "status": "ok",
        "error": None,
        "latency": 1_000,
        "input_tokens": 10,
        "output_tokens": 5,
        "cost": 300,
        "assigned_cost": 300,
        "assigned_tokens": 15,
        "calls": (Call("base", "sim/triage", 10, 5, 300, 900),),
        "created_at": 1_000,
        "answered_at": 2_000,
    }
    return Prediction(**{**values, **stated})


def content(prediction_id: str, **stated: Any) -> Content:
    values: dict[str, Any] = {
        "unit": "ada",
        "input": {"ticket": "It broke."},
        "output": {"category": "bug"},
        "error_detail": None,
        "metadata": {},
    }
    return Content(prediction_id=prediction_id, **{**values, **stated})


def outcome(prediction_id: str = "p", value: float = 1.0, **stated: Any) -> Outcome:
    values: dict[str, Any] = {
        "metric": "correct",
        "source": "human",
        "digest": f"digest of {value}",
        "late": False,
        "received_at": 5_000,
    }
    return Outcome(prediction_id=prediction_id, value=value, **{**values, **stated})


def remark(prediction_id: str = "p", comment: str | None = "well done", **stated: Any) -> Remark:
    values: dict[str, Any] = {"source": "human", "digest": f"digest of {comment}", "label": None, "received_at": 5_000}
    return Remark(prediction_id=prediction_id, comment=comment, **{**values, **stated})


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Store]:
    """A store that must end with every connection back in its pool."""
    store = Store.open(url, **options)
    try:
        yield store
    finally:
        out = store.database.readers.pool.checkedout()  # type: ignore[attr-defined]  # a QueuePool
        await store.close()
        assert out == 0
        assert store.database.writer.pool.checkedout() == 0  # type: ignore[attr-defined]  # a QueuePool


async def append(store: Store, *predictions: Prediction) -> None:
    """Append predictions with content, durably."""
    with store.journal.reserve(len(predictions)) as slot:
        for one in predictions:
            await slot.append(one, content(one.prediction_id))
