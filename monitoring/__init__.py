"""Is it getting worse, and what do we show? Change over time, and every metric's name.

Law of this room: numbers come in, what is shown about them goes out. No clock, no randomness and no I/O; it imports the
standard library, msgspec, numpy, scipy, prometheus_client and `experiments`.
"""
