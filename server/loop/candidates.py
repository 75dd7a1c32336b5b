"""From a result that passed the gate to a variant: named after its optimizer, with its lineage and its scores."""

from collections.abc import Collection

from msgspec.structs import replace

from learning.compile_runs import CompileRun, Job, Result
from learning.definitions import ProgramDefinition
from learning.programs import make_variant
from learning.variants import Variant
from server.store import Connection
from server.store.compiles import Claim, finish_run
from server.store.definitions import add_variant, stored_variants, variant_by_id

_SHORT = {"gepa": "gepa", "mipro": "mipro", "bootstrap_few_shot": "fewshot"}


def made(definition: ProgramDefinition, job: Job, run: CompileRun, result: Result) -> Variant:
    """The variant of a candidate, under a name that `admit` completes. Raises: Invalid when the program has changed."""
    variant = make_variant(
        job.program,
        definition,
        name=_SHORT[job.optimizer],
        created_at=run.created_at,
        state=result.state,
        parent=job.champion,
        origin="compile",
        compile_id=run.compile_id,
    )
    return replace(variant, scores=_scores(run, result))


def _scores(run: CompileRun, result: Result) -> dict[str, object]:
    """What is known of the candidate before any user meets it, beside the champion's on the same examples."""
    verdict = run.gate
    return {
        "dataset": run.dataset_digest,
        "valset": {"champion": result.baseline_val, "candidate": result.candidate_val},
        "holdout": {
            "champion": run.baseline_score,
            "candidate": run.candidate_score,
            "examples": verdict.examples if verdict else 0,
            "gain_at_least": verdict.lower if verdict else None,
        },
    }


def admit(conn: Connection, claim: Claim, run: CompileRun, candidate: Variant, now: int) -> CompileRun:
    """Keep the candidate under a free name and end its run, in one transaction.

    A variant that answers exactly alike may exist already, say from an earlier run; that one is the candidate then.
    Raises: Stale when another runner holds the run.
    """
    kept = variant_by_id(conn, run.program, candidate.id)
    if kept is None:
        names = {variant.name for variant in stored_variants(conn, run.program)}
        kept = add_variant(conn, replace(candidate, name=_free_name(candidate.name, names), created_at=now))
    return finish_run(conn, claim, replace(run, state="succeeded", variant=kept.name, finished_at=now))


def _free_name(stem: str, taken: Collection[str]) -> str:
    """`gepa-1`, `gepa-2`: which generation it is can be read off it."""
    number = 1
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{number}"
