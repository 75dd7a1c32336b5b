"""A program of several steps, written in a Python file beside its definitions, served by a real server."""

from pathlib import Path

from tests.servers import RunningServer

MODULE = '''
import dspy


class Patient(dspy.Module):
    """Asks again, at most three times, until two answers agree: a variable number of steps."""

    signature = "ticket: str -> category: Literal['billing', 'bug', 'how-to', 'other']"

    def __init__(self) -> None:
        super().__init__()
        self.first = dspy.Predict("ticket: str -> category: Literal['billing', 'bug', 'how-to', 'other']")
        self.second = dspy.Predict("ticket: str, guess: str -> category: Literal['billing', 'bug', 'how-to', 'other']")

    async def aforward(self, ticket: str) -> dspy.Prediction:
        answer = (await self.first.acall(ticket=ticket)).category
        for _ in range(2):
            again = (await self.second.acall(ticket=ticket, guess=answer)).category
            if again == answer:
                break
            answer = again
        return dspy.Prediction(category=answer)
'''
DEFINITIONS = """
programs:
  patient:
    module: patient_module:Patient
    lm: {model: sim/triage, price: {input: 0.25, output: 2}}
"""


def test_a_module_beside_its_definitions_is_served_and_every_step_is_on_the_bill(tmp_path: Path) -> None:
    (tmp_path / "patient_module.py").write_text(MODULE)
    config = tmp_path / "ratchet.yaml"
    config.write_text(DEFINITIONS)
    with RunningServer(tmp_path / "data", config=config) as server:
        checked = server.command("check", str(config))
        assert checked.returncode == 0, checked.stderr
        with server.client() as http:
            steps = set()
            for number in range(12):
                body = {"input": {"ticket": f"Message {number}: please help me with my order"}}
                answer = http.post("/v1/programs/patient/predict", json=body).raise_for_status().json()
                page = http.get("/v1/programs/patient/predictions?limit=1").raise_for_status().json()
                (stored,) = page["items"]
                assert stored["prediction_id"] == answer["prediction_id"]
                assert sum(call["usage"]["input_tokens"] for call in stored["calls"]) == answer["usage"]["input_tokens"]
                steps.add(len(stored["calls"]))
        assert steps == {2, 3}
        assert server.stop() == 0
        with RunningServer(tmp_path / "data", config=config) as again, again.client() as http:
            assert http.get("/health/ready").status_code == 200
