"""Where the training of a run stands: what a checkpoint says beside the weights.

Each part changes at its own time: the cursor and the losses with every step, the best epochs with every evaluation, the hashes with
every stage, and what was spent when somebody looks at the clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self


@dataclass(frozen=True)
class Cursor:
    """The next thing to do: `offset` steps after the end of `epoch` (0: the stage's start) of stage `stage`."""

    stage: int = 0
    """From 0."""
    epoch: int = 0
    """Epochs of the stage that are done, with their evaluation."""
    offset: int = 0
    """Steps of the next epoch that are done; all of them, where only its evaluation is missing."""
    step: int = 0
    """Optimizer steps over all stages."""
    stage_done: bool = False
    """The stage's last evaluation is done."""


@dataclass(frozen=True)
class Best:
    """An epoch whose weights are the best so far, and how good they are."""

    stage: int
    epoch: int
    """From 1."""
    rank: tuple[float, float]
    """(validation metric, -log loss), higher is better."""
    soup: tuple[int, ...] = ()
    """The epochs whose mean they are, `epoch` being the stage's last; none: they are the epoch's own."""


@dataclass(frozen=True)
class Losses:
    """Sums of losses that are not written down yet."""

    epoch: float = 0.0
    """Of the steps of the epoch."""
    logged: float = 0.0
    """Of the `logged_steps` steps since the last line of the history."""
    logged_steps: int = 0


@dataclass(frozen=True)
class Spent:
    """What training has cost so far, over all sessions."""

    seconds: float = 0.0
    epoch_began: float = 0.0
    """What `seconds` was when the next epoch began."""
    cpu_joules: float | None = 0.0
    """Energy of the processors; None: not known of one session."""
    skipped: int = 0
    """Steps in which no weight was changed, because gradients overflowed fp16."""


@dataclass(frozen=True)
class Session:
    """What the session that writes a checkpoint leaves to the one that continues."""

    history_bytes: int = 0
    """Length of history.jsonl; what a killed run wrote after its last checkpoint is written again by the resumed one."""
    threads: int | None = None
    """Of torch; None: before the first checkpoint."""


@dataclass(frozen=True)
class Progress:
    """All of it. At the start the weights, with a head that is random, compete with none."""

    cursor: Cursor = Cursor()
    stage_best: Best | None = None
    """The best epoch of the stage; None before its first evaluation."""
    run_best: Best | None = None
    """The epoch that the run's weights are from, those of the host model; None: of none yet."""
    losses: Losses = Losses()
    spent: Spent = Spent()
    session: Session = Session()
    hashes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Of the layer groups at the start of the stage, see `hftl.training.proof`."""

    @property
    def name(self) -> str:
        """Of its checkpoint; in the order of time, an epoch's evaluation after its last step."""
        cursor = self.cursor
        return f"{cursor.step:08d}-{cursor.stage:02d}-{cursor.epoch:05d}"

    @property
    def leaves_weights(self) -> bool:
        """Whether the run's weights are from the stage in which it stands."""
        return self.run_best is not None and self.run_best.stage == self.cursor.stage

    def is_kept(self, rank: tuple[float, float], *, keep: Literal["best", "last"]) -> bool:
        """Whether the weights of an epoch of that rank take the place of those that the run has.

        "best": they are better than all before them, so that the weights with which a stage begins may outlast it. "last": they are
        the best of their stage.
        """
        bar = self.run_best if keep == "best" else self.stage_best
        return bar is None or rank > bar.rank

    def after_step(self, loss: float, *, skipped: bool = False) -> Self:
        cursor, losses = self.cursor, self.losses
        return replace(
            self,
            cursor=replace(cursor, step=cursor.step + 1, offset=cursor.offset + 1),
            losses=Losses(losses.epoch + loss, losses.logged + loss, losses.logged_steps + 1),
            spent=replace(self.spent, skipped=self.spent.skipped + skipped),
        )

    def after_log(self) -> Self:
        """With a line of the history written."""
        return replace(self, losses=Losses(self.losses.epoch))

    def after_epoch(self, rank: tuple[float, float], *, kept: bool) -> Self:
        """With the epoch's evaluation done; `kept`: the run has its weights now."""
        cursor = replace(self.cursor, epoch=self.cursor.epoch + 1, offset=0)
        this = Best(cursor.stage, cursor.epoch, rank)
        return replace(
            self,
            cursor=cursor,
            stage_best=this if self.stage_best is None or rank > self.stage_best.rank else self.stage_best,
            run_best=this if kept else self.run_best,
            losses=replace(self.losses, epoch=0.0),
            spent=replace(self.spent, epoch_began=self.spent.seconds),
        )

    def after_soup(self, epochs: tuple[int, ...], rank: tuple[float, float], *, kept: bool) -> Self:
        """With the stage's soup, of these epochs, evaluated; `kept`: the run has its weights now."""
        assert self.stage_best is not None  # its epochs were evaluated
        this = Best(self.cursor.stage, self.cursor.epoch, rank, epochs)
        best = this if rank > self.stage_best.rank else self.stage_best
        return replace(self, stage_best=best, run_best=this if kept else self.run_best)

    def after_last_epoch(self) -> Self:
        """With no epoch of the stage left."""
        return replace(self, cursor=replace(self.cursor, stage_done=True))

    def next_stage(self) -> Self:
        """Before the first epoch of the stage that follows."""
        return type(self)(
            cursor=Cursor(stage=self.cursor.stage + 1, step=self.cursor.step),
            run_best=self.run_best,
            spent=replace(self.spent, epoch_began=self.spent.seconds),
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; `from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Read `to_dict`'s back.

        Raises:
            TypeError, KeyError: these are other values.
        """

        def best(key: str) -> Best | None:
            found = values[key]
            return None if found is None else Best(**{**found, "rank": tuple(found["rank"]), "soup": tuple(found["soup"])})

        return cls(
            Cursor(**values["cursor"]),
            best("stage_best"),
            best("run_best"),
            Losses(**values["losses"]),
            Spent(**values["spent"]),
            Session(**values["session"]),
            values["hashes"],
        )
