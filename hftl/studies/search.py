"""Optuna, and nothing else of hftl knows it: which values a trial gets, whether its next epoch is worth it, and where that is kept.

Values are drawn by one process at a time: whoever asks holds a lock of the study's folder (`hftl.studies.turns`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hftl.errors import RunError
from hftl.names import METRICS
from hftl.records.trial import State
from hftl.studies.space import OFF, ON, Choice, Range, Space, Value
from hftl.studies.trials import StudyLost

if TYPE_CHECKING:
    import optuna

Sampler = Literal["grid", "random", "tpe", "cmaes", "evolution"]
Pruner = Literal["none", "median", "hyperband"]

STORAGE = "trials.db"
"""In the study's folder, where no other storage is named."""
GENERATION = 10
"""Trials in a generation of the evolution."""
FEW = 10
"""Complete trials without which nothing is said of what matters."""
_ABOUT = "hftl"
_STATES: Mapping[str, State] = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}


@dataclass(frozen=True)
class Drawn:
    """A trial as the storage has it."""

    number: int
    values: Mapping[str, Value]
    state: State | None
    """None: it is running, or the process that ran it is gone."""


class Asked:
    """A trial that this process runs."""

    def __init__(self, trial: optuna.Trial, values: Mapping[str, Value], shown: str) -> None:
        self.number, self.values = trial.number, values
        self._trial, self._shown = trial, shown

    def report(self, epoch: int, value: float) -> bool:
        """Tell what the trial would deliver after so many epochs; returns whether the next one is not worth it.

        Raises:
            StudyLost: the storage does not answer.
        """
        with _answering(self._shown):
            if epoch not in self._trial.storage.get_trial(self._trial._trial_id).intermediate_values:  # by an earlier session
                self._trial.report(value, epoch)
            return self._trial.should_prune()


class Search:
    """The trials of a study in their storage."""

    def __init__(self, study: optuna.Study, space: Space, sampler: Sampler, seed: int, shown: str, held: ExitStack) -> None:
        self._study, self._space, self._sampler, self._seed, self._shown = study, space, sampler, seed, shown
        self._held = held

    def close(self) -> None:
        """Let go of the connections to the storage; what is in it stays."""
        self._held.close()

    def drawn(self) -> list[Drawn]:
        """All trials that were drawn so far, by number.

        Raises:
            StudyLost: the storage does not answer.
        """
        with _answering(self._shown):
            trials = [trial for trial in self._study.get_trials(deepcopy=False) if trial.state.name != "WAITING"]
        return [Drawn(trial.number, trial.params, _STATES.get(trial.state.name)) for trial in trials]

    def ask(self) -> Asked | None:
        """Draw the values of a new trial; None: the grid is through. Called by one process at a time.

        Raises:
            StudyLost: the storage does not answer.
        """
        with _answering(self._shown):
            trials = self._study.get_trials(deepcopy=False)
            self._study.sampler = _sampler(self._sampler, _seed_of(self._seed, len(trials)))
            waits = any(trial.state.name == "WAITING" for trial in trials)  # of a process that was killed at this very place
            if self._sampler == "grid" and not waits:
                taken = [trial.system_attrs.get("fixed_params") for trial in trials]
                left = next((values for values in self._in_order() if values not in taken), None)
                if left is None:
                    return None
                self._study.enqueue_trial(left)
            return self._asked(self._study.ask())

    def again(self, number: int) -> Asked:
        """A trial whose process is gone, with its values. Called by one process at a time.

        Raises:
            StudyLost: the storage does not answer.
        """
        import optuna

        with _answering(self._shown):
            self._study.sampler = _sampler(
                "random", _seed_of(self._seed, number)
            )  # it may have been killed while values were drawn
            trial = next(trial for trial in self._study.get_trials(deepcopy=False) if trial.number == number)
            return self._asked(optuna.Trial(self._study, trial._trial_id))

    def tell(self, asked: Asked, state: State, value: float | None) -> None:
        """Write down what a trial came to.

        Raises:
            StudyLost: the storage does not answer.
        """
        from optuna.trial import TrialState

        with _answering(self._shown):
            if state == "complete":
                self._study.tell(asked.number, value)
            else:
                self._study.tell(asked.number, state=TrialState.PRUNED if state == "pruned" else TrialState.FAIL)

    def importance(self) -> dict[str, float] | None:
        """How much of being among the best tenth each key decides, by PED-ANOVA, in sum 1; None: too few trials
        to say it, or nearly all are equally good.

        Raises:
            StudyLost: the storage does not answer.
        """
        from optuna.importance import get_param_importances
        from optuna.trial import TrialState

        with _answering(self._shown):
            trials = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            best_first = sorted((trial.value or 0.0 for trial in trials), reverse=self._study.direction.name == "MAXIMIZE")
            tenth = max(2, math.ceil(len(trials) / 10))
            if len(trials) < FEW or best_first[tenth - 1] == best_first[-1]:
                return None
            return {key: float(share) for key, share in get_param_importances(self._study).items()}

    def _asked(self, trial: optuna.Trial) -> Asked:
        values: dict[str, Value] = {
            switch.key: str(trial.suggest_categorical(switch.key, [ON, OFF])) for switch in self._space.switches
        }
        for dimension in self._space.drawn(values):
            values[dimension.key] = _suggested(trial, dimension)
        return Asked(trial, values, self._shown)

    def _in_order(self) -> list[dict[str, Value]]:
        """The grid in an order of its own, so that its first half is no corner."""
        grid = list(self._space.grid())
        return [grid[place] for place in np.random.default_rng(self._seed).permutation(len(grid))]


def _suggested(trial: optuna.Trial, dimension: Range | Choice) -> Value:
    key = dimension.key
    if isinstance(dimension, Choice):
        return str(trial.suggest_categorical(key, dimension.options))
    if dimension.whole:
        return trial.suggest_int(key, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(key, dimension.low, dimension.high, log=dimension.log)


def draw_values(space: Space, number: int, *, seed: int) -> list[dict[str, Value]]:
    """Values of so many trials, drawn at random: nothing is stored.

    Raises:
        RunError: Optuna is not installed.
    """
    optuna = _optuna()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    search = Search(study, space, "random", seed, "memory", ExitStack())
    return [dict(search._asked(study.ask()).values) for _ in range(number)]


# --- opening ------------------------------------------------------------------------------------------------------------------


def open_search(
    folder: Path, storage: str, space: Space, *, sampler: Sampler, pruner: Pruner, metric: str, seed: int, epochs: int, token: str
) -> Search:
    """The study in its storage, a new one or the one that is there, to be closed. Called by one process at a time.

    Args:
        folder: of the study, whose name the study has in the storage too.
        storage: a file in `folder`, a journal file elsewhere, or the address of a database.
        epochs: the most that a trial may have.
        token: what this very folder is known by.

    Raises:
        RunError: Optuna is not installed; or the storage holds a study of another folder.
        StudyLost: the storage cannot be reached.
    """
    optuna = _optuna()
    shown = shown_storage(storage)
    with ExitStack() as held:
        with _answering(shown, opening=True):
            study = optuna.create_study(
                storage=_storage(folder, storage, held),
                study_name=folder.resolve().name,
                direction="maximize" if METRICS[metric].higher_is_better else "minimize",
                load_if_exists=True,
                sampler=_sampler("random", seed),
                pruner=_pruner(pruner, epochs),
            )
            about = study.user_attrs.get(_ABOUT)
            if about is None and not study.get_trials(deepcopy=False):
                about = {"token": token}
                study.set_user_attr(_ABOUT, about)
        if about != {"token": token}:
            raise RunError(
                f'{shown}: it holds a study "{folder.resolve().name}" already, of another folder than {folder}. Processes that join'
                " a study share its folder; for another study choose another name with --study-dir"
            )
        return Search(study, space, sampler, seed, shown, held.pop_all())


def shown_storage(storage: str) -> str:
    """An address without its password, as it may be shown and written down."""
    if "://" not in storage:
        return storage
    before, _, after = storage.partition("://")
    place, at, rest = after.rpartition("@")
    user, colon, _ = place.partition(":")
    return f"{before}://{user}{':***' if colon else ''}{at}{rest}"


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise RunError('tuning needs Optuna, which is not installed:  pip install "hftl[tune]"') from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def _storage(folder: Path, storage: str, held: ExitStack) -> Any:
    from optuna.storages import JournalStorage, RDBStorage
    from optuna.storages.journal import JournalFileBackend

    if storage == STORAGE:
        storage = f"sqlite:///{(folder / STORAGE).resolve()}"
    if "://" not in storage:
        return JournalStorage(JournalFileBackend(storage))
    waits: dict[str, Any] = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {}
    database = RDBStorage(storage, engine_kwargs={"pool_pre_ping": True, **waits})  # an epoch is longer than a server keeps silent
    held.callback(database.engine.dispose)
    held.callback(database.remove_session)  # first: its connection goes back to the engine
    return database


@contextmanager
def _answering(shown: str, *, opening: bool = False) -> Iterator[None]:
    """Turn what a storage fails with into one message.

    Raises:
        StudyLost: it cannot be reached, or does not hold what it should.
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    broken = (ImportError, ValueError, RuntimeError) if opening else ()
    try:
        yield
    except (StorageInternalError, SQLAlchemyError, OSError, *broken) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError | ImportError) and error.__cause__ else error
        said = str(cause).strip().splitlines()
        raise StudyLost(
            f"{shown}: the storage of the study cannot be used: {said[0] if said else type(cause).__name__}\n"
            "  Trials that are done are kept, and the same command goes on once it answers"
        ) from None


def _sampler(kind: Sampler, seed: int) -> Any:
    from optuna import samplers

    if kind == "tpe":
        return samplers.TPESampler(seed=seed)
    if kind == "cmaes":
        return samplers.CmaEsSampler(seed=seed, warn_independent_sampling=False)
    if kind == "evolution":
        return samplers.NSGAIISampler(seed=seed, population_size=GENERATION)
    return samplers.RandomSampler(seed=seed)


def _pruner(kind: Pruner, epochs: int) -> Any:
    from optuna import pruners

    if kind == "median":
        return pruners.MedianPruner()
    if kind == "hyperband":
        return pruners.HyperbandPruner(min_resource=1, max_resource=epochs)
    return pruners.NopPruner()


def _seed_of(seed: int, number: int) -> int:
    """Each trial draws anew, so that a study that is continued draws what it would have drawn in one piece."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
