"""Is it up, is it fast, what does it cost? For whoever is woken at night."""

from monitoring.grafana.building import PROGRAM, VARIANT, Dashboard, Panel, Query
from monitoring.grafana.moments import CONFIGURATION, PROMOTIONS

_QUANTILE = "histogram_quantile({q}, sum by (le, {by}) (rate({family}_bucket{{{where}}}[$__rate_interval])))"


def _quantiles(family: str, by: str, where: str, legend: str, *quantiles: str) -> tuple[Query, ...]:
    return tuple(
        Query(_QUANTILE.format(q=f"0.{q}", by=by, family=family, where=where), f"p{q} {legend}") for q in quantiles
    )


DASHBOARD = Dashboard(
    uid="ratchet-serving",
    title="Ratchet: serving",
    description="Rate, errors, duration, our own overhead and the cost of predictions, and the processes behind them.",
    annotations=(PROMOTIONS, CONFIGURATION),
    panels=(
        Panel(
            title="Predictions",
            question="Who is asked how much?",
            answer="By assigned variant. A variant that a split gives traffic and that is silent here is not reached.",
            unit="reqps",
            stacked=True,
            queries=(
                Query(
                    f"sum by (program, variant) (rate(ratchet_predictions_total{{{VARIANT}}}[$__rate_interval]))",
                    "{{program}} {{variant}}",
                ),
            ),
        ),
        Panel(
            title="Errors and fallbacks",
            question="Are callers left without an answer?",
            answer="`error`: nobody answered. `fallback`: the champion answered; its challenger is charged with it.",
            unit="percentunit",
            limit=0.01,
            queries=(
                Query(
                    "sum by (program, status)"
                    f' (rate(ratchet_predictions_total{{{VARIANT},status=~"error|fallback"}}[$__rate_interval]))'
                    " / on (program) group_left ()"
                    f" sum by (program) (rate(ratchet_predictions_total{{{VARIANT}}}[$__rate_interval]))",
                    "{{program}} {{status}}",
                ),
            ),
        ),
        Panel(
            title="Duration",
            question="How long do callers wait?",
            answer="The language model included. Compare the arms of an experiment: latency may be its guardrail.",
            unit="s",
            queries=_quantiles(
                "ratchet_prediction_duration_seconds",
                "program, variant",
                VARIANT,
                "{{program}} {{variant}}",
                "50",
                "99",
            ),
        ),
        Panel(
            title="Overhead",
            question="How much of that wait is ours?",
            answer="Time to answer less the language model's. It grows with the journal's commits and a busy machine.",
            unit="s",
            limit=0.25,
            queries=_quantiles("ratchet_overhead_seconds", "program", PROGRAM, "{{program}}", "50", "99"),
        ),
        Panel(
            title="Cost of serving",
            question="What do predictions cost, and by which variant?",
            answer="Dollars an hour at the present rate, by the variant whose calls they are; unpriced: absent.",
            unit="currencyUSD",
            stacked=True,
            queries=(
                Query(
                    "3600 * sum by (program, variant)"
                    f" (rate(ratchet_llm_cost_dollars_total{{{VARIANT}}}[$__rate_interval]))",
                    "{{program}} {{variant}}",
                ),
            ),
        ),
        Panel(
            title="Tokens",
            question="Did prompts or answers grow?",
            answer="Tokens per second. More demonstrations show as input, a chattier variant as output.",
            unit="suffix: tokens/s",
            queries=(
                Query(
                    f"sum by (program, variant, type) (rate(ratchet_llm_tokens_total{{{VARIANT}}}[$__rate_interval]))",
                    "{{program}} {{variant}} {{type}}",
                ),
            ),
        ),
        Panel(
            title="Journal: rows waiting",
            question="Does the disk keep up?",
            answer="10,000 rows fill the journal of a process; callers then get 503. A standing queue is a slow disk.",
            unit="short",
            limit=5000,
            queries=(Query("max by (instance) (ratchet_log_queue_rows)", "{{instance}}"),),
        ),
        Panel(
            title="Journal: time of a commit",
            question="What does being durable cost?",
            answer="Every answer waits for one commit. Compare with the overhead above.",
            unit="s",
            queries=_quantiles("ratchet_log_commit_seconds", "instance", "", "{{instance}}", "50", "99"),
        ),
        Panel(
            title="Leader, and agreement",
            question="Does exactly one process decide, and do all serve by the same configuration?",
            answer="Leaders ought to be 1, epochs apart 0 but for a second after a change, and no definitions refused.",
            unit="none",
            kind="stat",
            queries=(
                Query("sum(ratchet_leader)", "leaders", instant=True),
                Query("max(ratchet_config_epoch) - min(ratchet_config_epoch)", "epochs apart", instant=True),
                Query("sum(1 - ratchet_config_last_reload_successful)", "definitions refused", instant=True),
                Query("count by (version) (ratchet_build_info)", "processes of {{version}}", instant=True),
            ),
        ),
        Panel(
            title="Scheduled jobs",
            question="Is every job still done?",
            answer="Seconds since each job last came to its end. A line that climbs is a job that fails: see the log.",
            unit="s",
            queries=(
                Query(
                    "time() - max by (exported_job) (ratchet_scheduler_last_success_timestamp_seconds)",
                    "{{exported_job}}",
                ),
            ),
        ),
    ),
)
