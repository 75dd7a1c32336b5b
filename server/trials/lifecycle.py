"""Experiments as the rest of the server sees them: create, act on, look at.

Each act is one transaction (`server/trials/acts.py`); afterwards this process serves by it at once.
"""

from collections.abc import Callable, Mapping

import msgspec

from experiments import life
from experiments.errors import Fault, Invalid, NotFound
from experiments.experiment import Experiment
from experiments.life import Action, NewExperiment
from experiments.report import Point, Report
from learning.definitions import ProgramDefinition
from learning.programs import twin
from learning.variants import Variant, lm_in_force
from server.clock import new_id
from server.ratchet import Ratchet
from server.store import Connection
from server.store import experiments as store
from server.store.blocks import points_of
from server.store.definitions import add_variant, stored_variants
from server.store.upkeep import put_setting, setting
from server.trials import acts
from server.trials.acts import Act
from server.trials.replay import Replay, replay
from server.trials.reports import report_of
from server.trials.ticking import FROZEN


async def create(ratchet: Ratchet, wanted: NewExperiment) -> Experiment:
    """A new draft. Raises: Invalid with a fault for each wrong field."""
    made, champion = await drafted(ratchet, wanted)
    await ratchet.store.write(_keep_draft, made, twin(champion, made.created_at) if wanted.aa else None)
    return made


async def drafted(ratchet: Ratchet, wanted: NewExperiment) -> tuple[Experiment, Variant]:
    """The draft that `wanted` describes, not kept, and its champion. Raises: Invalid with a fault per wrong field."""
    try:
        program = ratchet.traffic.program(wanted.program)
    except NotFound as unknown:
        raise Invalid.at("/program", unknown.detail) from None
    now = ratchet.now()
    champion = program.champion
    variants = {variant.name: variant for variant in await ratchet.store.read(stored_variants, program.name)}
    made = life.draft(
        wanted,
        experiment_id=new_id(),
        champion=champion.name,
        variants=variants,
        metrics=program.definition.metrics,
        defaults=program.definition.experiments,
        promotion=program.definition.promotion,
        deadline=program.definition.deadline,
        now=now,
        outputs=program.blueprint.output_fields,
    )
    foreign = [
        Fault(f"/challengers/{place}", f"{name!r} takes or gives other fields than the champion {champion.name!r}")
        for place, name in enumerate(wanted.challengers)
        if variants[name].interface != champion.interface
    ]
    faults = foreign + _price_faults(made, {**variants, champion.name: champion}, program.definition)
    if faults:
        raise Invalid(faults[0].message, faults=faults)
    return made, champion


def _price_faults(drafted: Experiment, variants: Mapping[str, Variant], definition: ProgramDefinition) -> list[Fault]:
    """An unknown price is no low price: where costs are compared, every arm needs one."""
    if not any(drafted.metrics[name].kind == "cost" for name in drafted.compared):
        return []
    pointer, what = (
        ("/objective", drafted.settings.objective) if drafted.saving else ("/guardrails", "a cost guardrail")
    )
    return [
        Fault(pointer, f"{what} needs the price of every arm's LM; that of {name!r} is unknown")
        for name in drafted.arms
        if name in variants and lm_in_force(variants[name], definition).price is None
    ]


def _keep_draft(conn: Connection, drafted: Experiment, aa_twin: Variant | None) -> None:
    if aa_twin is not None:
        add_variant(conn, aa_twin)
    store.insert_experiment(conn, drafted)


async def act(
    ratchet: Ratchet,
    experiment_id: str,
    action: Action,
    *,
    reason: str,
    actor: str | None,
    variant: str | None = None,
    version: int | None = None,
) -> Experiment:
    """Carry out an operator's act. `variant` names the challenger to promote, `version` the one seen (If-Match).

    Raises: NotFound; Conflict when the state does not allow it; Stale; Invalid.
    """
    how: Mapping[Action, Callable[[Connection, Act], Experiment]] = {
        "start": acts.start,
        "pause": acts.pause,
        "resume": acts.resume,
        "stop": acts.stop,
        "promote": lambda conn, doing: acts.promote(conn, doing, variant),
        "rollback": acts.rollback,
    }
    if variant is not None and action != "promote":
        raise Invalid.at("/variant", f"{action} takes no variant")
    done = await ratchet.store.write(how[action], _act(ratchet, experiment_id, reason, actor, version))
    await ratchet.traffic.refresh()
    if done.state == "concluded" and done.verdict is not None:
        ratchet.metrics.decided(done.program, "rollback" if action == "rollback" else done.verdict, "operator")
    ratchet.log.info("experiment_acted_on", experiment=experiment_id, action=action, reason=reason, actor=actor)
    return done


async def reshare(
    ratchet: Ratchet,
    experiment_id: str,
    split: Mapping[str, float],
    *,
    reason: str,
    actor: str | None,
    version: int | None = None,
) -> Experiment:
    """Set the split by hand. Raises: as `act`."""
    changed = await ratchet.store.write(acts.reshare, _act(ratchet, experiment_id, reason, actor, version), split)
    await ratchet.traffic.refresh()
    return changed


def _act(ratchet: Ratchet, experiment_id: str, reason: str, actor: str | None, version: int | None) -> Act:
    now = ratchet.now()
    return Act(
        experiment_id=experiment_id,
        reason=reason,
        by="operator",
        actor=actor,
        now=now,
        horizon=ratchet.traffic.horizon(now),
        version=version,
    )


async def report(ratchet: Ratchet, experiment_id: str) -> Report:
    """Where an experiment stands now. Raises: NotFound."""
    return await ratchet.store.read(report_of, experiment_id, ratchet.traffic.horizon(ratchet.now()))


async def series(ratchet: Ratchet, experiment_id: str) -> list[Point]:
    """What the report plots over time. Raises: NotFound."""
    await ratchet.store.read(store.experiment, experiment_id)
    return await ratchet.store.read(points_of, experiment_id, Point)


async def replayed(ratchet: Ratchet, experiment_id: str) -> Replay:
    """Every decision of an experiment derived again from the raw rows. Raises: NotFound."""
    return await ratchet.store.read(replay, experiment_id)


class Freeze(msgspec.Struct, frozen=True):
    """Why, since when (µs) and by whom every automatic act is stopped."""

    reason: str
    since: int
    actor: str | None


async def freeze(ratchet: Ratchet, reason: str, actor: str | None) -> Freeze:
    """Stop every automatic act until `unfreeze`; evidence is still folded, reports still made."""
    frozen = Freeze(reason, ratchet.now(), actor)
    await ratchet.store.write(put_setting, FROZEN, msgspec.json.encode(frozen).decode())
    ratchet.log.warning("automation_frozen", reason=reason, actor=actor)
    return frozen


async def unfreeze(ratchet: Ratchet, reason: str, actor: str | None) -> None:
    """Let automatic acts happen again, from the next tick on."""
    await ratchet.store.write(put_setting, FROZEN, "")
    ratchet.log.warning("automation_unfrozen", reason=reason, actor=actor)


async def freeze_in_force(ratchet: Ratchet) -> Freeze | None:
    """The freeze in force, if there is one."""
    written = await ratchet.store.read(setting, FROZEN)
    return msgspec.json.decode(written, type=Freeze) if written else None
