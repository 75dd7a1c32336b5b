"""From a result that passed the gate to a variant: named after its optimizer, with its lineage and its scores."""

from collections.abc import Collection

from msgspec.structs import replace

from experiments.errors import Invalid
from learning.compile_runs import CompileRun, Job, Result
from learning.programs import make_variant
from learning.variants import Variant
from server.store import Connection
from server.store.compiles import Claim, finish_run, held_run
from server.store.definitions import add_variant, stored_variants, variant_by_id
from server.traffic import Program

_SHORT = {"gepa": "gepa", "mipro": "mipro", "bootstrap_few_shot": "fewshot"}


def made(program: Program, job: Job, run: CompileRun, result: Result) -> Variant:
    """The variant of a candidate, under a name that `admit` completes: the champion it was made from, with its state.

    An edited module or language model makes no difference; another interface or goal does. Raises: Invalid then.
    """
    if why := _outdated(program, job):
        raise Invalid(why)
    variant = make_variant(
        job.program,
        replace(program.definition, module=job.champion.module, signature=job.champion.signature),
        name=_SHORT[job.optimizer],
        created_at=run.created_at,
        state=result.state,
        parent=job.champion,
        origin="compile",
        compile_id=run.compile_id,
    )
    return replace(variant, scores=_scores(run, result))


def _outdated(program: Program, job: Job) -> str | None:
    """What was changed while the run was under way and makes its result worth nothing."""
    if program.champion.interface != job.champion.interface:
        return f"the signature was changed: {job.champion.name!r}, which it improves, cannot answer any more"
    goal = program.definition.metrics[program.definition.goal] if program.definition.goal else None
    if goal is None or (goal.kind, goal.field) != (job.goal.kind, job.goal.field):
        return "the goal was changed: it was judged by the one before"
    return None


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
    if held_run(conn, claim).cancel_requested:
        return finish_run(conn, claim, replace(run, finished_at=now))
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
