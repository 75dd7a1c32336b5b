"""The document against the running server: every route, with data the document allows and data it does not."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.servers import RunningServer

SCHEMATHESIS = str(Path(sys.executable).with_name("schemathesis"))
CONFIG = """
[dictionaries.programs]
values = ["triage"]
[dictionaries.variants]
values = ["base", "terse"]
[dictionaries.experiments]
values = ["{draft}", "{running}"]
[parameters]
"path.program" = {{dictionary = "programs", probability = 0.8}}
"path.variant" = {{dictionary = "variants", probability = 0.8}}
"path.other" = {{dictionary = "variants", probability = 0.8}}
"path.experiment_id" = {{dictionary = "experiments", probability = 0.8}}
[auth.openapi.key]
bearer = "{key}"
# What values make sense together (a split and its arms, a label and its program) no schema can say: such are answered
# with 400, and the other checks see to it that this answer is as documented.
[checks]
positive_data_acceptance.enabled = false
# Litestar answers OPTIONS with the methods of the first handler of a path.
allow_header_conformance.enabled = false
# It never ends.
[[operations]]
include-operation-id = ["follow_changes"]
enabled = false
# An item of these that is wrong becomes its own problem, and the rest of the list stands: 200 is right.
[[operations]]
include-operation-id = ["report_outcomes", "predict_batch"]
checks.negative_data_rejection.enabled = false
"""


@pytest.fixture(scope="module")
def config(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that names what is there: a key, two variants, a draft and a running experiment."""
    written = tmp_path_factory.mktemp("schemathesis") / "schemathesis.toml"
    written.write_text(CONFIG.format(**prepare(server.url)))
    return written


def prepare(url: str) -> dict[str, str]:
    made = httpx.post(f"{url}/v1/keys", json={"name": "tests", "scopes": ["admin"]}).raise_for_status().json()
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {made['secret']}"}) as http:
        terse = {"name": "terse", "instructions": "One word."}
        http.post("/v1/programs/triage/variants", json=terse).raise_for_status()
        wanted = {"program": "triage", "challengers": ["terse"]}
        draft, running = [
            http.post("/v1/experiments", json=wanted).raise_for_status().json()["experiment_id"] for _ in range(2)
        ]
        http.post(f"/v1/experiments/{running}/start", json={"reason": "tests"}).raise_for_status()
        predicted = http.post("/v1/programs/triage/predict", json={"input": {"ticket": "It crashed"}})
        predicted.raise_for_status()
    return {"key": made["secret"], "draft": draft, "running": running}


def test_every_route_does_what_the_document_says_with_good_and_bad_data(
    server: RunningServer, config: Path, tmp_path: Path
) -> None:
    command = [SCHEMATHESIS, "--config-file", str(config), "run", f"{server.url}/openapi.json"]
    phases = ["--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--seed", "1"]
    done = subprocess.run(
        [*command, *phases, "--continue-on-failure", "--warnings", "off"],
        check=False,
        capture_output=True,
        text=True,
        timeout=110,
        cwd=tmp_path,
        env={**os.environ, "NO_COLOR": "1", "HYPOTHESIS_STORAGE_DIRECTORY": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_document_is_whole(server: RunningServer) -> None:
    document = httpx.get(f"{server.url}/openapi.json").raise_for_status().json()
    operations = [entry for path in document["paths"].values() for entry in path.values()]
    assert len(operations) > 30
    for operation in operations:
        assert operation["description"], operation["operationId"]
        assert operation["tags"], operation["operationId"]
        for status, response in operation["responses"].items():
            kinds = set(response["content"])
            assert (kinds == {"application/problem+json"}) == (status >= "400" and "Readiness" not in str(response)), (
                operation["operationId"],
                status,
            )
    schemas = document["components"]["schemas"]
    assert all(schema["properties"] and schema["description"] for schema in schemas.values())
    assert schemas["NewExperiment"]["additionalProperties"] is False
    assert [name for name in _references(document) if name not in schemas] == []


def _references(part: object) -> Iterator[str]:
    if isinstance(part, dict):
        reference = part.get("$ref", "")
        if reference.startswith("#/components/schemas/"):
            yield reference.rpartition("/")[2]
        for child in part.values():
            yield from _references(child)
    elif isinstance(part, list):
        for child in part:
            yield from _references(child)
