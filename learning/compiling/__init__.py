"""A compile run's own process: it searches for a better program, pays for every call, and answers the sealed holdout.

It knows no database and no server: a `Job` in a file, `Event`s and a `Result` in others (`learning/compile_runs.py`).
"""
