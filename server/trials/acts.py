"""What may be done to an experiment, each as one transaction on the writer: all of it happens, or nothing.

Every act that moves traffic appends a routing (the compare-and-set that decides a race) and every verdict a decision.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from experiments import folding, holdback, life, sequence
from experiments.assignment import Routing
from experiments.decision import remaining
from experiments.errors import Conflict, Invalid, NotFound, Stale, nearest
from experiments.experiment import ENGINE, By, Decision, Experiment, Verdict
from experiments.folding import Evidence
from server.clock import new_id
from server.store import Connection
from server.store import experiments as store
from server.store.blocks import keep_evidence, kept_evidence
from server.store.experiments import Level, Promotion
from server.store.routings import append_routing, routing_in_force
from server.trials.reports import evidence_report, watch_of


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """Who does something to which experiment, when and why. `version` is the one the caller saw (If-Match), if any."""

    experiment_id: str
    reason: str
    by: By
    actor: str | None
    now: int
    horizon: int
    version: int | None = None


def current(conn: Connection, act: Act) -> Experiment:
    """The experiment acted on. Raises: NotFound; Stale when it is not the version the caller saw."""
    experiment = store.experiment(conn, act.experiment_id)
    if act.version is not None and act.version != experiment.version:
        raise Stale(f"the experiment is at version {experiment.version}, not {act.version}; read it again and retry")
    return experiment


def start(conn: Connection, act: Act) -> Experiment:
    """Let a draft run: fix its promotion level, begin its evidence, and put its split in force."""
    experiment = current(conn, act)
    life.require(experiment, "start")
    routing = _routing(conn, experiment.program)
    _require_champion(experiment, routing)
    store.interrupt_holdback(conn, routing, act.now)
    level = None if experiment.aa else _draw_level(conn, experiment)
    running = store.update_experiment(conn, life.started(experiment, level, act.now))
    keep_evidence(conn, running.experiment_id, folding.begin(running), blocks=0, horizon=act.now, before=None)
    _route(
        conn,
        routing,
        act,
        experiment_id=running.experiment_id,
        split=running.split,
        randomize=running.settings.randomize,
        pairs=running.settings.pairs,
        covariates=running.settings.covariates,
        state="open",
    )
    return running


def _require_champion(experiment: Experiment, routing: Routing) -> None:
    if routing.champion != experiment.champion:
        raise Conflict(
            f"the champion is now {routing.champion!r}, this draft was made against {experiment.champion!r}; "
            "create the experiment again"
        )


def next_level(conn: Connection, program: str, alpha: float) -> tuple[int, int, float]:
    """The series, the number in it, and the level of the experiment on this program that starts next."""
    past = store.levels_of(conn, program)
    number = past[-1].series if past else 1
    if past and past[-1].alpha != alpha:
        number += 1
    mine = [step.level if step.rejected else None for step in past if step.series == number]
    return number, len(mine) + 1, sequence.level(alpha, mine)


def _draw_level(conn: Connection, experiment: Experiment) -> float:
    """Take the next level of the program's series; another `alpha` than the last one's opens a new series."""
    alpha = experiment.settings.alpha
    number, t, level = next_level(conn, experiment.program, alpha)
    store.append_level(
        conn,
        Level(
            program=experiment.program,
            series=number,
            t=t,
            experiment_id=experiment.experiment_id,
            alpha=alpha,
            level=level,
        ),
    )
    return level


def pause(conn: Connection, act: Act) -> Experiment:
    """Send all traffic to the champion; every assignment is kept for the resume."""
    experiment = current(conn, act)
    life.require(experiment, "pause")
    _route(conn, _routing(conn, experiment.program), act, state="paused")
    return store.update_experiment(conn, msgspec.structs.replace(experiment, state="paused"))


def resume(conn: Connection, act: Act) -> Experiment:
    """Put the split of a paused experiment back in force: every unit meets the arm it met before."""
    experiment = current(conn, act)
    life.require(experiment, "resume")
    _route(conn, _routing(conn, experiment.program), act, state="open")
    return store.update_experiment(conn, msgspec.structs.replace(experiment, state="running"))


def reshare(conn: Connection, act: Act, split: Mapping[str, float]) -> Experiment:
    """Set the split by hand, which turns the ramp off. Raises: Invalid at /split."""
    experiment = current(conn, act)
    try:
        shares = _shares_by_hand(conn, experiment, split)
    except ValueError as error:
        raise Invalid.at("/split", str(error).removeprefix("split: ")) from None
    if experiment.state == "concluded":
        raise Conflict("the experiment is concluded; its split cannot be changed")
    if experiment.state != "draft":
        _route(conn, _routing(conn, experiment.program), act, split=shares)
    return store.update_experiment(conn, life.reshared(experiment, shares))


def _shares_by_hand(conn: Connection, experiment: Experiment, split: Mapping[str, float]) -> dict[str, float]:
    """A split as asked for, in arm order. Raises: ValueError unless every arm has a share, the harmful ones apart."""
    kept = kept_evidence(conn, experiment.experiment_id, Evidence)
    on_trial = (remaining(experiment, kept.body) if kept else ()) or experiment.challengers
    gone = [challenger for challenger in experiment.challengers if challenger not in on_trial]
    if harmful := next((name for name in gone if split.get(name)), None):
        raise ValueError(f"split: {harmful!r} proved harmful and is off traffic; leave it out")
    wanted = {arm: share for arm, share in split.items() if arm not in gone}
    return {**life.arm_split(wanted, experiment.champion, on_trial), **dict.fromkeys(gone, 0.0)}


def fill(conn: Connection, act: Act) -> None:
    """Send new traffic to the champion: the planned number of units has entered."""
    _route(conn, _routing(conn, current(conn, act).program), act, state="full")


def step(conn: Connection, act: Act, split: dict[str, float]) -> None:
    """Put the split of the next step in force: more for the challengers, or nothing for a harmful one."""
    _route(conn, _routing(conn, current(conn, act).program), act, split=split)


def stop(conn: Connection, act: Act) -> Experiment:
    """End an experiment without a winner, by hand."""
    experiment = current(conn, act)
    life.require(experiment, "stop")
    return conclude(conn, experiment, act, "stopped")


def promote(conn: Connection, act: Act, challenger: str | None) -> Experiment:
    """Make a challenger the champion, by hand. Raises: Invalid at /variant."""
    experiment = current(conn, act)
    life.require(experiment, "promote")
    if experiment.aa:
        raise Conflict("an A/A experiment never promotes: its challenger is the champion's twin")
    _require_champion(experiment, _routing(conn, experiment.program))
    live = store.live_experiment(conn, experiment.program)
    if live is not None and live.experiment_id != experiment.experiment_id:
        raise Conflict(f"experiment {live.experiment_id} is live on this program; stop it before changing the champion")
    if challenger is None and len(experiment.challengers) > 1:
        raise Invalid.at("/variant", f"name the challenger to promote; {nearest('', experiment.challengers)}")
    winner = challenger or experiment.challengers[0]
    if winner not in experiment.challengers:
        raise Invalid.at("/variant", f"{winner!r} is no challenger here; {nearest(winner, experiment.challengers)}")
    return conclude(conn, experiment, act, "promote", winner)


def conclude(
    conn: Connection, experiment: Experiment, act: Act, verdict: Verdict, winner: str | None = None
) -> Experiment:
    """Latch a verdict: the decision with its evidence, the traffic that follows, and the end of the experiment."""
    routing = _routing(conn, experiment.program)
    after = _held_back(experiment, routing.champion, winner)
    decision = _decide(conn, experiment, act, verdict, routing.split, after)
    concluded = life.concluded(experiment, verdict, act.reason, act.now)
    if winner is not None:
        store.interrupt_holdback(conn, routing, act.now)
        _record_promotion(conn, experiment, act, routing.champion, winner)
    if after and winner is not None:
        concluded = _hold_back(conn, concluded, act, routing, winner)
    elif routing.experiment_id == experiment.experiment_id or winner is not None:
        _serve(conn, routing, act, winner or routing.champion)
    _close_level(conn, experiment, act, verdict, decision)
    return store.update_experiment(conn, concluded)


def _held_back(experiment: Experiment, former: str, winner: str | None) -> dict[str, float]:
    """The split that follows a promotion; empty when the winner serves everything, or there is none."""
    if winner is None or winner == former or not experiment.settings.holdback:
        return {}
    return holdback.split(experiment, former, winner)


def _hold_back(conn: Connection, experiment: Experiment, act: Act, routing: Routing, winner: str) -> Experiment:
    """Put the split of a holdback in force and begin its evidence."""
    watched = holdback.began(experiment, routing.champion, winner, routing.epoch + 1, act.now)
    trial = holdback.watched(watched)
    keep_evidence(conn, trial.experiment_id, folding.begin(trial), blocks=0, horizon=act.now, before=None)
    _route(
        conn,
        routing,
        act,
        champion=winner,
        experiment_id=experiment.experiment_id,
        split=trial.split,
        randomize=experiment.settings.randomize,
        pairs=False,
        covariates=experiment.settings.covariates,
        state="holdback",
    )
    return watched


def end_holdback(conn: Connection, experiment: Experiment, act: Act, *, passed: bool) -> Experiment:
    """Give the promoted variant everything: its holdback is over."""
    routing = _routing(conn, experiment.program)
    _serve(conn, routing, act, routing.champion)
    return store.update_experiment(conn, holdback.over(experiment, passed=passed, now=act.now))


def rollback(conn: Connection, act: Act) -> Experiment:
    """Take back the program's latest promotion, if it was this experiment's: the verdict stays, the traffic returns.

    Raises: Conflict when this experiment did not promote, or a later promotion stands in the way.
    """
    experiment = current(conn, act)
    life.require(experiment, "rollback")
    latest = next((p for p in store.promotions_of(conn, experiment.program) if p.rolled_back_at is None), None)
    if latest is None or latest.experiment_id != experiment.experiment_id:
        standing = f"; the latest promotion is that of experiment {latest.experiment_id}" if latest else ""
        raise Conflict(f"this experiment has no promotion to take back{standing}")
    if (champion := _routing(conn, experiment.program).champion) != latest.to_variant:
        raise Conflict(
            f"the signature changed since: {champion!r} is the champion, and {latest.from_variant!r} cannot answer "
            "what is asked now"
        )
    live = store.live_experiment(conn, experiment.program)
    if live is not None:
        ended = msgspec.structs.replace(
            act,
            experiment_id=live.experiment_id,
            reason="The champion changed: a promotion was rolled back.",
            version=None,
        )
        conclude(conn, live, ended, "invalid")
    routing = _routing(conn, experiment.program)
    _decide(conn, experiment, act, "rollback", routing.split, {})
    _serve(conn, routing, act, latest.from_variant)
    store.mark_rolled_back(conn, latest.promotion_id, act.now)
    reverted = holdback.over(experiment, reverted=act.by == "holdback", now=act.now)
    return store.update_experiment(conn, msgspec.structs.replace(reverted, rolled_back=True))


def recommend(conn: Connection, experiment: Experiment, act: Act) -> None:
    """Record that the engine would promote, and leave the act to a person."""
    routing = _routing(conn, experiment.program)
    _decide(conn, experiment, act, "promote", routing.split, routing.split)


def _decide(
    conn: Connection,
    experiment: Experiment,
    act: Act,
    verdict: Verdict,
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> Decision:
    kept = kept_evidence(conn, experiment.experiment_id, Evidence)
    watch = watch_of(conn, experiment)
    evidence = kept.body if kept else folding.begin(experiment) if watch else None
    decision = Decision(
        decision_id=new_id(),
        experiment_id=experiment.experiment_id,
        tick=len(store.decisions_of(conn, experiment.experiment_id)) + 1,
        verdict=verdict,
        reason=act.reason,
        by=act.by,
        actor=act.actor,
        evidence=evidence_report(conn, experiment, evidence, act.horizon) if evidence else {},
        engine=ENGINE,
        split_before=dict(before),
        split_after=dict(after),
        blocks=evidence.blocks if evidence else 0,
        registered=evidence.registered if evidence else 0,
        watched=(watch.blocks, watch.registered) if watch else (0, 0),
        horizon=act.horizon,
        created_at=act.now,
    )
    store.append_decision(conn, decision)
    return decision


def _record_promotion(conn: Connection, experiment: Experiment, act: Act, before: str, winner: str) -> None:
    store.append_promotion(
        conn,
        Promotion(
            promotion_id=new_id(),
            program=experiment.program,
            from_variant=before,
            to_variant=winner,
            experiment_id=experiment.experiment_id,
            by=act.by,
            actor=act.actor,
            reason=act.reason,
            created_at=act.now,
        ),
    )


def _close_level(conn: Connection, experiment: Experiment, act: Act, verdict: Verdict, decision: Decision) -> None:
    """Tell the series how this test ended; only the engine's own promotion counts as a discovery.

    Of two claims the least e-value counts: whichever of them is false, its own bounds it.
    """
    claims: dict[str, list[float]] = {}
    for compared in _comparisons(decision):
        if compared["metric"] in experiment.objectives and compared["log_e_better"] is not None:
            claims.setdefault(compared["challenger"], []).append(compared["log_e_better"])
    whole = [min(each) for each in claims.values() if len(each) == len(experiment.objectives)]
    store.conclude_level(
        conn,
        experiment.experiment_id,
        log_e=_log_mean(whole, len(experiment.challengers)) if whole else None,
        rejected=verdict == "promote" and act.by == "engine",
    )


def _log_mean(log_e: Sequence[float], number: int) -> float:
    """The log of the mean of `number` e-values, those not given being 0."""
    top = max(log_e)
    return top + math.log(math.fsum(math.exp(value - top) for value in log_e) / number)


def _comparisons(decision: Decision) -> list[dict[str, Any]]:
    comparisons = decision.evidence.get("comparisons", [])
    return list(comparisons) if isinstance(comparisons, list | tuple) else []


def _routing(conn: Connection, program: str) -> Routing:
    routing = routing_in_force(conn, program)
    if routing is None:
        raise NotFound(f"no program is called {program!r}")
    return routing


def _serve(conn: Connection, routing: Routing, act: Act, champion: str) -> None:
    """Let one variant serve everything."""
    _route(conn, routing, act, champion=champion, experiment_id=None, split={}, covariates=(), state="open")


def _route(conn: Connection, routing: Routing, act: Act, **changes: object) -> None:
    """Open the next epoch. Raises: Stale when somebody else has opened it."""
    append_routing(
        conn,
        msgspec.structs.replace(routing, epoch=routing.epoch + 1, reason=act.reason, created_at=act.now, **changes),
    )
