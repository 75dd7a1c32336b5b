"""Trouble with the provider of a language model: the champion steps in, and nothing goes unrecorded."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.faults.provider import Fault, Provider, answering, babbling, hanging_up, providing, refusing
from tests.servers import RunningServer

DEFINITIONS = """
programs:
  triage:
    signature: "ticket: str -> category: Literal['billing', 'bug', 'how-to', 'other']"
    instructions: Classify the support ticket.
    lm: {{model: mock/champion, api_base: "{url}", num_retries: 0, price: {{input: 1, output: 2}}}}
    timeout: 2s
    metrics:
      correct: {{kind: exact_match, field: category, role: goal, expected: all}}
    experiments: {{randomize: request, split: {{champion: 0.5, challenger: 0.5}}, ramp: []}}
"""
ON_CHALLENGERS: dict[str, Fault] = {
    "a server error": refusing(500),
    "too many requests": refusing(429),
    "an unknown model": refusing(404),
    "a late answer": answering(after=5),
    "a page of HTML": babbling(b"<html>Bad gateway</html>"),
    "a body cut short": babbling(b'{"choices": [{"mess'),
    "JSON of another shape": babbling(b'{"choices": []}'),
    "an unreadable answer": answering("I would rather not say."),
    "an answer that is not allowed": answering("[[ ## category ## ]]\nrefund\n\n[[ ## completed ## ]]"),
    "a closed connection": hanging_up,
}


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with providing() as provider:
        yield provider


@pytest.fixture(scope="module")
def http(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server with an experiment between two variants, whose language models are the provider's."""
    directory = tmp_path_factory.mktemp("provider")
    definitions = directory / "ratchet.yaml"
    definitions.write_text(DEFINITIONS.format(url=provider.url))
    with RunningServer(directory / "data", config=definitions) as server, server.client() as http:
        lm = {"model": "mock/challenger", "api_base": provider.url, "num_retries": 0}
        post(http, "/v1/programs/triage/variants", {"name": "challenger", "lm": lm})
        made = post(http, "/v1/experiments", {"program": "triage", "challengers": ["challenger"]})
        post(http, f"/v1/experiments/{made['experiment_id']}/start", {"reason": "a test"})
        yield http


@pytest.fixture(autouse=True)
def _calm(provider: Provider) -> None:
    provider.faults.clear()


def post(http: httpx.Client, path: str, body: Any) -> Any:
    answer = http.post(path, json=body)
    assert answer.status_code in (200, 201), answer.text
    return answer.json()


def predict(http: httpx.Client, **body: Any) -> httpx.Response:
    return http.post("/v1/programs/triage/predict", json={"input": {"ticket": "It crashed"}, **body})


def assigned_to(http: httpx.Client, variant: str) -> dict[str, Any]:
    """The answer to the first prediction that is assigned to a variant."""
    for _ in range(50):
        answer: dict[str, Any] = predict(http).json()
        if answer["assigned_variant"] == variant:
            return answer
    raise AssertionError(f"nothing was assigned to {variant}")


def recorded(http: httpx.Client, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The latest prediction that is as wanted; it may still be under way."""
    until = time.monotonic() + 10
    while time.monotonic() < until:
        for prediction in http.get("/v1/programs/triage/predictions").json()["items"]:
            if wanted(prediction):
                return dict(prediction)
        time.sleep(0.05)
    raise AssertionError("there is no such prediction")


@pytest.mark.parametrize("trouble", ON_CHALLENGERS)
def test_the_champion_answers_for_a_challenger_in_trouble(http: httpx.Client, provider: Provider, trouble: str) -> None:
    provider.faults["challenger"] = ON_CHALLENGERS[trouble]
    answer = assigned_to(http, "challenger")
    assert (answer["variant"], answer["fallback"], answer["output"]) == ("base", True, {"category": "bug"})
    stored = recorded(http, lambda found: found["prediction_id"] == answer["prediction_id"])
    assert (stored["assigned_variant"], stored["variant"], stored["fallback"]) == ("challenger", "base", True)
    assert stored["error"]
    assert [call["variant"] for call in stored["calls"]][-1] == "base"


def test_a_challenger_is_charged_with_its_failures(http: httpx.Client, provider: Provider) -> None:
    provider.faults["challenger"] = refusing(500)
    before = errors(http)
    for _ in range(3):
        assigned_to(http, "challenger")
    after = errors(http)
    assert after["challenger"] == before["challenger"] + 3
    assert after["base"] == before["base"] == 0


def errors(http: httpx.Client) -> dict[str, int]:
    shown = http.get("/v1/programs/triage/analytics").json()["variants"]
    return {"challenger": 0, "base": 0} | {row["variant"]: row["errors"] for row in shown}


@pytest.mark.parametrize(
    ("fault", "status", "kind"), [(refusing(500), 502, "lm-failed"), (answering(after=5), 504, "lm-timeout")]
)
def test_when_nobody_answers_the_problem_names_the_recorded_prediction(
    http: httpx.Client, provider: Provider, fault: Fault, status: int, kind: str
) -> None:
    provider.faults |= {"champion": fault, "challenger": fault}
    answer = predict(http)
    problem = answer.json()
    assert (answer.status_code, problem["type"], problem["status"]) == (status, kind, status)
    assert answer.headers["content-type"] == "application/problem+json"
    stored = recorded(http, lambda found: found["prediction_id"] == problem["prediction_id"])
    assert (stored["variant"], stored["output"]) == (None, None)
    outcome = {"prediction_id": problem["prediction_id"], "label": {"category": "bug"}}
    told = post(http, "/v1/outcomes", {"outcomes": [outcome]})
    assert told["results"][0]["status"] == "accepted"


def test_a_pinned_variant_does_not_fall_back(http: httpx.Client, provider: Provider) -> None:
    provider.faults["challenger"] = refusing(500)
    calls = provider.calls["champion"]
    assert predict(http, variant="challenger").status_code == 502
    assert provider.calls["champion"] == calls


def test_a_caller_that_hangs_up_changes_nothing(http: httpx.Client, provider: Provider) -> None:
    provider.faults |= {"champion": answering(after=0.8), "challenger": answering(after=0.8)}
    with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=http.base_url, timeout=0.3, trust_env=False) as hasty:
        predict(hasty, metadata={"caller": "hung up"})
    stored = recorded(http, lambda found: found["metadata"] == {"caller": "hung up"})
    assert stored["output"] == {"category": "bug"}
