"""From an admitted candidate to its trial: an experiment against the champion it was compiled from.

The newest run of a program that succeeded, and has no experiment yet, is looked at on every tick. Its candidate
- goes on trial at once if nothing is in the way;
- waits while an experiment is running or paused, or automation is frozen;
- is left to the operator when the champion is another by now (the gate's word was about the one before), or when there
  is a later run. It stays a variant; the run's `error` says why it is not on trial.
A holdback does not make it wait: as with any experiment, it ends when the trial begins.

Draft, start and the note in the run are one transaction: a candidate is never on trial twice.
"""

from msgspec.structs import replace

from experiments.errors import Conflict, Invalid, RatchetError, Stale
from experiments.experiment import Experiment
from experiments.life import NewExperiment
from learning.compile_runs import CompileRun
from server.ratchet import Ratchet
from server.store import Connection
from server.store import experiments as store
from server.store.compiles import change_ended, last_run
from server.store.definitions import stored_program
from server.store.upkeep import setting
from server.traffic import Program
from server.trials import acts, lifecycle
from server.trials.acts import Act
from server.trials.ticking import FROZEN


async def put_on_trial(ratchet: Ratchet, program: Program) -> Experiment | None:
    """Put the program's waiting candidate on trial if it can be; the experiment that was started."""
    run = await ratchet.store.read(waiting, program.name)
    if run is None or run.variant is None:
        return None
    try:
        return await _tried(ratchet, program, run, run.variant)
    except Stale:  # something moved; the next tick looks again
        return None
    except (Conflict, Invalid) as error:
        await _note(ratchet, run, f"its candidate is not on trial: {error.detail}")
        return None


def waiting(conn: Connection, program: str) -> CompileRun | None:
    """The program's newest run, if it has a candidate that never was on trial."""
    run = last_run(conn, program)
    return run if run and run.state == "succeeded" and run.experiment_id is None else None


async def _tried(ratchet: Ratchet, program: Program, run: CompileRun, variant: str) -> Experiment | None:
    if (known := await ratchet.store.read(_experiment_with, run)) is not None:
        await ratchet.store.write(change_ended, run, replace(run, experiment_id=known.experiment_id, error=None))
        return None
    if program.routing.champion != run.champion:
        changed = (
            f"the champion is {program.routing.champion!r} now, and the candidate was judged against {run.champion!r}"
        )
        raise Conflict(f"{changed}; start an experiment by hand if it is still wanted")
    live = await ratchet.store.read(store.live_experiment, program.name)
    if live is not None:
        raise Conflict(f"it waits for the end of experiment {live.experiment_id}")
    drafted, _ = await lifecycle.drafted(ratchet, NewExperiment(program=program.name, challengers=(variant,)))
    now = ratchet.now()
    act = Act(
        experiment_id=drafted.experiment_id,
        reason=f"{variant} passed the gate of compile run {run.compile_id}",
        by="engine",
        actor=None,
        now=now,
        horizon=ratchet.traffic.horizon(now),
    )
    running = await ratchet.store.write(_begin, run, program, drafted, act)
    await ratchet.traffic.refresh()
    ratchet.log.info(
        "trial_started", program=program.name, experiment=running.experiment_id, variant=variant, compile=run.compile_id
    )
    return running


def _experiment_with(conn: Connection, run: CompileRun) -> Experiment | None:
    """An experiment with the candidate that somebody created since there is one: an operator was first."""
    found = store.experiments_in(conn, ("draft", "running", "paused", "concluded"), program=run.program)
    mine = (experiment for experiment in reversed(found) if run.variant in experiment.challengers)
    return next((experiment for experiment in mine if experiment.created_at >= (run.finished_at or 0)), None)


def _begin(conn: Connection, run: CompileRun, program: Program, drafted: Experiment, act: Act) -> Experiment:
    """Raises: Stale, Conflict when something came first; then nothing is written."""
    if setting(conn, FROZEN):
        raise Conflict("automatic acts are frozen")
    if stored_program(conn, program.name).definition != program.definition:
        raise Stale("the definition was changed a moment ago")
    store.insert_experiment(conn, drafted)
    running = acts.start(conn, act)
    change_ended(conn, run, replace(run, experiment_id=running.experiment_id, error=None))
    return running


async def _note(ratchet: Ratchet, run: CompileRun, why: str) -> None:
    """Keep in the run why its candidate is not on trial."""
    if run.error == why:
        return
    try:
        await ratchet.store.write(change_ended, run, replace(run, error=why))
    except RatchetError as error:
        ratchet.log.warning("trial_not_noted", compile_id=run.compile_id, detail=error.detail)
        return
    ratchet.log.info("trial_waits", program=run.program, compile_id=run.compile_id, reason=why)
