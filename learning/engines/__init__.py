"""What answers behind a `dspy.LM`: models inside this process, the simulated and the small real one, and providers.

While compiling, each of them stands behind `recorded`, which pays for a call and keeps its answer.
"""
