"""The loop that runs by itself: drift is noticed, a compile asked for and carried out, its candidate put on trial.

Law of this package: each step reads facts, lets `monitoring/` or `learning/` decide, and writes what follows in one
transaction; a step that is repeated, or done by two processes, changes nothing. Nothing here decides by itself, and
nothing here reaches traffic but through an experiment.
"""
