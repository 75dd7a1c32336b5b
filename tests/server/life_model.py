"""What ought to be true of one program's experiments, in a few lines: what `test_life` holds the server against."""

from experiments.experiment import By, Experiment, Verdict


class Model:
    """What ought to be true of the program, and of each experiment by its id."""

    def __init__(self) -> None:
        self.champion = "base"
        self.state: dict[str, str] = {}
        self.verdict: dict[str, str | None] = {}
        self.against: dict[str, str] = {}
        """The champion each was drafted against."""
        self.rolled_back: set[str] = set()
        self.levels: dict[str, bool] = {}
        """Of every experiment that drew a level, in order: whether the engine promoted by it."""
        self.standing: list[tuple[str, str, str]] = []
        """Experiment, former and new champion of every promotion not taken back."""
        self.watched: str | None = None

    @property
    def live(self) -> str | None:
        """The experiment that is running or paused."""
        return next((one for one, state in self.state.items() if state in ("running", "paused")), None)

    @property
    def next(self) -> str | None:
        """The latest draft that was made against the present champion."""
        fit = [one for one, state in self.state.items() if state == "draft" and self.against[one] == self.champion]
        return fit[-1] if fit else None

    def conclude(self, one: Experiment, verdict: Verdict, winner: str | None, by: By) -> None:
        self.state[one.experiment_id], self.verdict[one.experiment_id] = "concluded", verdict
        if one.experiment_id in self.levels:
            self.levels[one.experiment_id] = winner is not None and by == "engine"
        if winner is not None:
            self.standing.append((one.experiment_id, self.champion, winner))
            self.champion = winner
            self.watched = one.experiment_id if one.settings.holdback else None

    def roll_back(self, one: Experiment) -> None:
        if (live := self.live) is not None:
            self.state[live], self.verdict[live] = "concluded", "invalid"
        self.champion = self.standing.pop()[1]
        self.rolled_back.add(one.experiment_id)
        self.watched = None
