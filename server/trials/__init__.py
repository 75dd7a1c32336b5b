"""Experiments in motion: what an operator may do to one, what every tick does, and how a decision is derived again.

Law of this package: an act is one transaction on the writer, all of it or nothing; a race is decided by compare-and-set
on a routing, an experiment's version or its evidence. What to conclude is decided in `experiments/`, never here.
"""
