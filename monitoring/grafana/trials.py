"""What is on trial, what speaks for it, and is anything getting worse? For the owner of a program."""

from monitoring.grafana.building import PROGRAM, VARIANT, Dashboard, Panel, Query
from monitoring.grafana.moments import ALARMS, CONFIGURATION, PROMOTIONS, RECOMPILES


def _effect(bound: str) -> Query:
    return Query(
        f'max by (program, variant, metric) (ratchet_experiment_effect_ratio{{{VARIANT},bound="{bound}"}})',
        "{{program}} {{variant}} {{metric}} " + bound,
    )


def _drift(family: str, legend: str) -> Query:
    return Query(
        f'max by (program, variant) (ratchet_drift_{family}{{{VARIANT},signal="score"}})',
        "{{program}} {{variant}} " + legend,
    )


DASHBOARD = Dashboard(
    uid="ratchet-experiments",
    title="Ratchet: experiments and drift",
    description="What the running experiments have found so far, whether they can be trusted, and what is drifting.",
    annotations=(PROMOTIONS, RECOMPILES, ALARMS, CONFIGURATION),
    panels=(
        Panel(
            title="Effect",
            question="Is the challenger better, and by how much?",
            answer="Challenger against champion with its confidence sequence, which holds at every moment at once: look"
            " as often as you like. Better once the lower bound is above 0, where more is better.",
            unit="percentunit",
            wide=True,
            queries=tuple(_effect(bound) for bound in ("lower", "estimate", "upper")),
        ),
        Panel(
            title="Evidence against its threshold",
            question="How near is a decision?",
            answer="Log e-value as a share of what decides; at 1 the challenger is promoted (better), taken off traffic"
            " (harm) or given up (futile).",
            unit="percentunit",
            limit=1,
            queries=(
                Query(
                    f"max by (program, variant, side) (ratchet_experiment_log_evidence{{{VARIANT}}})"
                    " / on (program, side) group_left ()"
                    f" max by (program, side) (ratchet_experiment_log_evidence_threshold{{{PROGRAM}}})",
                    "{{program}} {{variant}} {{side}}",
                ),
            ),
        ),
        Panel(
            title="Progress",
            question="How much of the experiment is over?",
            answer="Units folded, of `max_units`. At 1 without a verdict it ends as inconclusive.",
            unit="percentunit",
            most=1,
            queries=(Query(f"max by (program) (ratchet_experiment_progress_ratio{{{PROGRAM}}})", "{{program}}"),),
        ),
        Panel(
            title="Split",
            question="Who gets which share of traffic?",
            answer="By the routing in force. A ramp climbs in steps; a stall means that harm is not excluded yet.",
            unit="percentunit",
            most=1,
            stacked=True,
            queries=(
                Query(f"max by (program, variant) (ratchet_split_ratio{{{VARIANT}}})", "{{program}} {{variant}}"),
            ),
        ),
        Panel(
            title="Can the data be trusted?",
            question="Do units and outcomes arrive in the proportion they should?",
            answer="Log evidence against the split (SRM) and against outcomes arriving evenly. At 6.9 (1 in 1,000) the"
            " experiment ends as invalid: look for what filters or retries differently by variant.",
            unit="short",
            limit=6.9,
            queries=(
                Query(f"max by (program) (ratchet_srm_log_evidence{{{PROGRAM}}})", "{{program}} split"),
                Query(f"max by (program) (ratchet_arrival_log_evidence{{{PROGRAM}}})", "{{program}} arrival"),
            ),
        ),
        Panel(
            title="Scores",
            question="How good are the answers?",
            answer="Mean score of the last day's predictions that have had their outcome window, 1 is best. Without"
            " bounds: compare arms by their effect above, not by these lines.",
            unit="percentunit",
            most=1,
            queries=(
                Query(
                    f"max by (program, variant, metric) (ratchet_score_ratio{{{VARIANT}}})",
                    "{{program}} {{variant}} {{metric}}",
                ),
            ),
        ),
        Panel(
            title="Decisions",
            question="How did experiments end?",
            answer="In the time shown. Many `inconclusive` ones: too little traffic for the effect you look for.",
            unit="short",
            kind="bargauge",
            queries=(
                Query(
                    f"sum by (program, verdict) (increase(ratchet_decisions_total{{{PROGRAM}}}[$__range]))",
                    "{{program}} {{verdict}}",
                    instant=True,
                ),
            ),
        ),
        Panel(
            title="Drift evidence",
            question="Is something getting worse?",
            answer="Log evidence as a share of what raises the alarm, at 1. It rises and falls by itself; what stays"
            " above 0.7 is worth a look.",
            unit="percentunit",
            limit=1,
            queries=(
                Query(
                    f"max by (program, variant, signal) (ratchet_drift_evidence_ratio{{{VARIANT}}})",
                    "{{program}} {{variant}} {{signal}}",
                ),
            ),
        ),
        Panel(
            title="Score against its baseline",
            question="How far has it fallen?",
            answer="The last 500 matured outcomes, the baseline learnt, and the score below which they are evidence.",
            unit="percentunit",
            queries=(
                _drift("score_ratio", "now"),
                _drift("baseline_score_ratio", "baseline"),
                _drift("null_score_ratio", "null"),
            ),
        ),
        Panel(
            title="Drift alarms",
            question="Since when is which alarm open?",
            answer="An alarm is latched until a recompile is promoted or somebody acknowledges it.",
            unit="bool_on_off",
            kind="state-timeline",
            limit=1,
            queries=(
                Query(
                    f"max by (program, variant, signal) (ratchet_drift_alarm{{{VARIANT}}})",
                    "{{program}} {{variant}} {{signal}}",
                ),
            ),
        ),
    ),
)
