"""Run by the Python of .venv-gbstats alone: what gbstats 0.8.0 says of proportions.

Standard input: a JSON list of [[n, successes] of control, of challenger]; output: halfwidths of the sequential interval
and whether its lower end is above 0.
"""

import json
import sys
from importlib.metadata import version

from gbstats.frequentist.tests import SequentialConfig, SequentialTwoSidedTTest
from gbstats.models.statistics import ProportionStatistic

halfwidths, promotes = [], []
for arms in json.load(sys.stdin):
    control, challenger = (ProportionStatistic(n=n, sum=successes) for n, successes in arms)
    config = SequentialConfig(alpha=0.05, difference_type="absolute")
    lower, upper = SequentialTwoSidedTTest(control, challenger, config).compute_result().ci
    halfwidths.append((upper - lower) / 2)
    promotes.append(lower > 0)
print(json.dumps({"version": version("gbstats"), "halfwidths": halfwidths, "promotes": promotes}))
