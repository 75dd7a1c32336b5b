"""Users of the support desk, for `docker compose --profile demo`: they write tickets, and later say what those were.

    python traffic.py URL FILE_WITH_API_KEY [SECONDS_UNTIL_THE_SHIFT]

After a while customers begin to write about a new product: its words are none that the program was told about.
"""

import sys
import time
from pathlib import Path
from typing import Any

import httpx

from learning.engines.triage import ticket

SEED = 7
SHIFT = 0.7
BATCH = 20
PAUSE = 1.0


def main() -> None:
    """Write tickets for ever."""
    url, key = sys.argv[1], Path(sys.argv[2]).read_text(encoding="utf-8").strip()
    quiet = float(sys.argv[3]) if len(sys.argv) > 3 else 900.0
    began, number = time.monotonic(), 0
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as http:
        while True:
            shift = SHIFT if time.monotonic() - began > quiet else 0.0
            try:
                _serve(http, [ticket(SEED, number + at, shift=shift) for at in range(BATCH)], number)
            except httpx.HTTPError as error:
                print(f"the server is away, trying again: {error}", flush=True)
            number += BATCH
            time.sleep(PAUSE)


def _serve(http: httpx.Client, tickets: list[Any], first: int) -> None:
    """Have tickets answered, and tell what they truly were."""
    items = [{"input": {"ticket": written.text}, "unit": f"user-{first + at}"} for at, written in enumerate(tickets)]
    answered = http.post("/v1/programs/triage/predict/batch", json={"items": items}).raise_for_status()
    outcomes = [
        {"prediction_id": answer["prediction_id"], "label": {"category": written.label}}
        for answer, written in zip(answered.json()["results"], tickets, strict=True)
        if "prediction_id" in answer
    ]
    http.post("/v1/outcomes", json={"outcomes": outcomes}).raise_for_status()


if __name__ == "__main__":
    main()
