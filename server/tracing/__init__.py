"""Traces: where a request belongs (W3C Trace Context), and spans of what was done for it (OpenTelemetry, an extra).

The first is always on: a caller's trace id goes onto the prediction, into the log and, as an exemplar, to Prometheus.
The second takes an installed extra and a configured collector; it never waits for either, and nothing fails with it.
OpenTelemetry is imported in `export.py` alone, and its global provider is left alone.
"""
