"""The moments marked in the dashboards."""

from monitoring.grafana.building import PROGRAM, Annotation

PROMOTIONS = Annotation(
    "Promotion",
    f"sum by (program, by) (increase(ratchet_promotions_total{{{PROGRAM}}}[1m])) > 0",
    "{{program}}: a new champion, by {{by}}",
    "green",
)
RECOMPILES = Annotation(
    "Recompile",
    f"max by (program, reason, result) (increase(ratchet_recompiles_total{{{PROGRAM}}}[1m])) > 0",
    "{{program}}: recompiled because of {{reason}}, {{result}}",
    "blue",
)
ALARMS = Annotation(
    "Drift alarm",
    f"max by (program, variant, signal) (increase(ratchet_drift_alarms_total{{{PROGRAM}}}[1m])) > 0",
    "{{program}} {{variant}}: {{signal}} has drifted",
    "red",
)
CONFIGURATION = Annotation(
    "Configuration", "max(changes(ratchet_config_epoch[1m])) > 0", "definitions or traffic were changed", "purple"
)
