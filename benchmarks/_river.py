"""Run by the Python of .venv-river alone: when river 0.26.1's detectors, as they come, raise alarms on given streams.

Standard input: JSON with `file` (a .npy of streams, one per row, higher is worse), `change` and `names`. Output, for
each detector: how often it fired in each stream, when first from `change` on (-1: never), microseconds per update.
"""

import json
import sys
import time
from importlib.metadata import version
from typing import Any

import numpy as np
from river.drift import ADWIN, PageHinkley
from river.drift.binary import DDM, HDDMA

DETECTORS = {"ADWIN": ADWIN, "DDM": DDM, "HDDM_A": HDDMA, "Page-Hinkley": PageHinkley}


def fired(name: str, stream: list[float]) -> list[int]:
    """Where a fresh detector fires. It begins anew by itself."""
    detector = DETECTORS[name]()
    found = []
    for index, value in enumerate(stream):
        detector.update(value)
        if detector.drift_detected:
            found.append(index)
    return found


asked = json.load(sys.stdin)
streams, change = np.load(asked["file"]), asked["change"]
told: dict[str, Any] = {"version": version("river")}
for name in asked["names"]:
    began = time.process_time()
    places = [fired(name, stream.tolist()) for stream in streams]
    took = time.process_time() - began
    told[name] = {
        "alarms": [len(place) for place in places],
        "first": [next((index for index in place if index >= change), -1) for place in places],
        "microseconds": took / streams.size * 1e6,
    }
print(json.dumps(told))
