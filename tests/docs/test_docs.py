"""What the pages say is true of the code, and where they point there is something."""

import re
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any, get_args

import pytest

from experiments.experiment import Verdict
from experiments.metrics import Kind, Metric
from experiments.quantities import fraction
from experiments.settings import ExperimentOptions
from learning.definitions import DriftOptions, GateOptions, LearningOptions, LmSettings, ProgramDefinition
from learning.feedback.datasets import PER_UNIT, Sizes
from server.settings import from_env

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_every_setting_of_a_process_is_documented_and_nothing_else():
    documented = set(re.findall(r"`(RATCHET_\w+)`", text("docs/operating.md")))
    source = (ROOT / "server/settings.py").read_text()
    assert documented == set(re.findall(r'"(RATCHET_[A-Z_]+)"', source))


def test_the_documented_defaults_of_settings_are_the_real_ones():
    settings = from_env({})
    row = next(line for line in text("docs/operating.md").splitlines() if "`RATCHET_HOST`" in line)
    assert f"`{settings.host}`" in row
    assert f"`{settings.port}`" in row


@pytest.mark.parametrize(
    "keys",
    [ProgramDefinition, LmSettings, Metric, ExperimentOptions, DriftOptions, LearningOptions, GateOptions],
    ids=lambda s: s.__name__,
)
def test_every_key_of_a_definition_has_its_row(keys: Any):
    documented = set(re.findall(r"`(\w+)`", " ".join(first_cells("docs/definitions.md"))))
    assert set(keys.__struct_fields__) - {"block"} <= documented


def test_the_defaults_of_experiments_are_documented():
    settings = ExperimentOptions().resolve()
    rows = dict(line.split("|")[1:3] for line in text("docs/definitions.md").splitlines() if line.count("|") == 4)
    shown = {key.strip(" `"): value.strip(" `") for key, value in rows.items()}
    for name in ("alpha", "min_effect", "max_units", "min_units", "ramp_units", "holdback", "holdback_units"):
        assert float(shown[name]) == getattr(settings, name), name


def test_the_defaults_of_learning_and_its_gate_are_documented():
    rows = dict(line.split("|")[1:3] for line in text("docs/definitions.md").splitlines() if line.count("|") == 4)
    shown = {key.strip(" `"): value.strip(" `") for key, value in rows.items()}
    options = LearningOptions()
    for name in ("optimizer", "min_fresh_labels", "max_duration", "cooldown"):
        assert shown[name] == str(getattr(options, name)), name
    for name in GateOptions.__struct_fields__:
        assert fraction(shown[name]) == fraction(getattr(options.gate, name)), name


def test_the_documented_sizes_of_a_dataset_are_the_real_ones():
    page, sizes = text("docs/learning.md"), Sizes()
    assert f"{sizes.train} to learn from, {sizes.val} to choose by, {sizes.holdout} in the holdout" in page
    assert f"Needed are {sizes.least_train}, {sizes.least_val} and {sizes.least_holdout}" in page
    assert f"most {PER_UNIT} of one unit" in " ".join(page.split())


def test_every_verdict_and_kind_of_metric_is_explained():
    explained = set(re.findall(r"`(\w+)`", " ".join(first_cells("docs/concepts.md"))))
    assert {*get_args(Verdict), *get_args(Kind)} <= explained


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_into_a_page_meets_a_heading(page: Path):
    for target, anchor in re.findall(r"\]\(([^):#]*)#([^)]+)\)", page.read_text()):
        headings = re.findall(r"^#+ (.+)$", (page.parent / target if target else page).read_text(), re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_make_target_named_in_a_page_exists(page: Path):
    targets = set(re.findall(r"^([a-z-]+):", text("Makefile"), re.MULTILINE)) | {
        f"bench-{file.stem}" for file in ROOT.glob("benchmarks/[!_]*.py")
    }
    assert set(re.findall(r"(?:^|`)make ([a-z][a-z-]+)", page.read_text(), re.MULTILINE)) <= targets


def test_every_decision_is_in_the_index_under_its_own_title():
    index = text("docs/decisions/README.md")
    for page in ROOT.glob("docs/decisions/0*.md"):
        number, title = page.read_text().splitlines()[0].removeprefix("# ").split(" ", 1)
        assert f"[{number}]({page.name}) | {title} |" in index


def test_every_decision_gives_context_consequences_and_alternatives():
    for page in ROOT.glob("docs/decisions/0*.md"):
        found = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
        assert found == ["Context", "Decision", "Consequences", "Alternatives"], page.name


def test_the_locks_carry_hashes_and_no_addresses():
    locks = sorted(ROOT.glob("requirements*.lock"))
    assert len(locks) >= 5
    for lock in locks:
        lines = lock.read_text()
        assert "://" not in lines
        assert not re.findall(r"^--", lines, re.MULTILINE)
        for pin in re.findall(r"^[a-z0-9][^\n]*\n(?:    [^\n]*\n)*", lines, re.MULTILINE):
            assert "--hash=sha256:" in pin, pin


def test_the_locks_agree_with_each_other_and_hold_what_is_asked_for():
    pins = defaultdict(set)
    peers = {ROOT / f"requirements-{peer}.lock" for peer in ("gbstats", "river")}  # each in a place of its own
    for lock in set(ROOT.glob("requirements*.lock")) - peers:
        for name, version, marker in re.findall(r"^([\w.-]+)==([^ ]+)( ; [^\\]+)? \\$", lock.read_text(), re.MULTILINE):
            if "python_full_version" not in marker:
                pins[name].add(version)
    assert not {name: versions for name, versions in pins.items() if len(versions) > 1}
    asked = tomllib.loads(text("pyproject.toml"))["project"]["dependencies"]
    runtime = text("requirements.lock")
    for requirement in asked:
        name = re.split(r"[\[><=;]", requirement)[0].strip().lower()
        assert re.search(rf"^{re.escape(name)}==", runtime, re.MULTILINE), name


def text(path: str) -> str:
    return (ROOT / path).read_text()


def first_cells(path: str) -> list[str]:
    return [line.split("|")[1] for line in text(path).splitlines() if line.startswith("| `")]
