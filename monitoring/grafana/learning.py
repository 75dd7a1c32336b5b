"""What does learning do, and what does a right answer cost? For whoever pays."""

from monitoring.grafana.building import PROGRAM, VARIANT, Dashboard, Panel, Query
from monitoring.grafana.moments import ALARMS, CONFIGURATION, PROMOTIONS, RECOMPILES


def _delay(quantile: str) -> Query:
    rate = f"rate(ratchet_outcome_delay_seconds_bucket{{{PROGRAM}}}[$__rate_interval])"
    return Query(f"histogram_quantile(0.{quantile}, sum by (le, program) ({rate}))", f"p{quantile} {{{{program}}}}")


DASHBOARD = Dashboard(
    uid="ratchet-learning",
    title="Ratchet: learning and cost",
    description="Compile runs and their budget, what requests and right answers cost, and how much feedback arrives.",
    annotations=(PROMOTIONS, RECOMPILES, ALARMS, CONFIGURATION),
    panels=(
        Panel(
            title="Compile runs",
            question="What is learning at?",
            answer="Runs by where they stand. `rejected` ones found no candidate good enough: the gate did its work.",
            unit="short",
            queries=(Query(f"max by (program, state) (ratchet_compile_runs{{{PROGRAM}}})", "{{program}} {{state}}"),),
        ),
        Panel(
            title="Progress of the run",
            question="Does the run under way get on?",
            answer="Metric calls made, of its budget. A flat line is a stalled run or a dead language model.",
            unit="percentunit",
            most=1,
            queries=(Query(f"max by (program) (ratchet_compile_progress_ratio{{{PROGRAM}}})", "{{program}}"),),
        ),
        Panel(
            title="Spend of the month",
            question="Will the budget last?",
            answer="This calendar month's compile runs beside what they may cost. At the budget recompiles wait for the"
            " next month.",
            unit="currencyUSD",
            queries=(
                Query(f"max by (program) (ratchet_compile_month_cost_dollars{{{PROGRAM}}})", "{{program}} spent"),
                Query(f"max by (program) (ratchet_compile_month_budget_dollars{{{PROGRAM}}})", "{{program}} budget"),
            ),
        ),
        Panel(
            title="Serving and compiling",
            question="Where does the money go?",
            answer="Dollars in the time shown, for predictions and for compile runs.",
            unit="currencyUSD",
            kind="bargauge",
            queries=(
                Query(
                    f"sum by (program) (increase(ratchet_llm_cost_dollars_total{{{PROGRAM}}}[$__range]))",
                    "{{program}} serving",
                    instant=True,
                ),
                Query(
                    f"max by (program) (increase(ratchet_compile_cost_dollars_total{{{PROGRAM}}}[$__range]))",
                    "{{program}} compiling",
                    instant=True,
                ),
            ),
        ),
        Panel(
            title="Recompiles",
            question="What asked for them, and what came of it?",
            answer="Runs that ended in the time shown. Many rejected ones: the prompt is as good as the data allow.",
            unit="short",
            kind="bargauge",
            queries=(
                Query(
                    f"max by (program, reason, result) (increase(ratchet_recompiles_total{{{PROGRAM}}}[$__range]))",
                    "{{program}} {{reason}} {{result}}",
                    instant=True,
                ),
            ),
        ),
        Panel(
            title="Cost of a request",
            question="What does one answer cost?",
            answer="By variant: its calls' cost over its predictions. By pairs, a challenger costs and serves nobody.",
            unit="currencyUSD",
            queries=(
                Query(
                    "sum by (program, variant)"
                    f" (rate(ratchet_llm_cost_dollars_total{{{VARIANT}}}[$__rate_interval]))"
                    " / (sum by (program, variant)"
                    f" (rate(ratchet_predictions_total{{{VARIANT}}}[$__rate_interval])) > 0)",
                    "{{program}} {{variant}}",
                ),
            ),
        ),
        Panel(
            title="Cost of a right answer",
            question="What does an answer that is right cost?",
            answer="Cost of a prediction over the share of right ones, of the last day's matured predictions. A cheaper"
            " variant that errs more may be the dearer one.",
            unit="currencyUSD",
            queries=(
                Query(
                    f"max by (program, variant) (ratchet_cost_per_correct_dollars{{{VARIANT}}})",
                    "{{program}} {{variant}}",
                ),
            ),
        ),
        Panel(
            title="Feedback coverage",
            question="Of how many answers do we ever hear whether they were right?",
            answer="Share of the last day's matured predictions with an outcome of the goal. A fall is a broken"
            " reporter before it is anything else.",
            unit="percentunit",
            most=1,
            queries=(
                Query(
                    f"max by (program, variant) (ratchet_outcome_coverage_ratio{{{VARIANT}}})",
                    "{{program}} {{variant}}",
                ),
            ),
        ),
        Panel(
            title="Feedback lag",
            question="How late do we hear?",
            answer="From a prediction to its accepted outcome. What takes longer than the outcome window is lost to the"
            " experiment.",
            unit="s",
            queries=(_delay("50"), _delay("95")),
        ),
        Panel(
            title="Outcomes",
            question="What becomes of the feedback that is sent?",
            answer="By status. `late`: after the window. `conflict`: another value was there. `duplicate` is harmless.",
            unit="suffix: outcomes/s",
            stacked=True,
            queries=(
                Query(
                    f"sum by (program, status) (rate(ratchet_outcomes_total{{{PROGRAM}}}[$__rate_interval]))",
                    "{{program}} {{status}}",
                ),
            ),
        ),
    ),
)
