"""Who gets which variant, and who won: arithmetic about arms and nothing else.

Law of this room: every function is pure. Facts, settings and the time come in as arguments, a frozen value goes out.
No clock, no randomness, no I/O, and no import but the standard library, msgspec, numpy and scipy.

Units used throughout: a time is an `int` of microseconds since the Unix epoch (UTC), a duration an `int` of
microseconds, money an `int` of picodollars (1e-12 USD), a share a `float` in [0, 1]. Integers add up exactly, so a
replay years later meets the same numbers.
"""
