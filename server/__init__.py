"""Make it happen: HTTP, SQL, the clock, processes, the command line.

Law of this room: it acts, and decides nothing that a pure function in another room could. DSPy, GEPA and LiteLLM are
reached through `learning` only; SQL is spoken in `store` only; `clock` is the only clock. Everything that runs is made
in one composition root and passed on; no module holds state.
"""
