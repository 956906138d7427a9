"""Studies: several fits of one recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hftl import signals
from hftl.api.run import Run
from hftl.api.training import train
from hftl.errors import RunError, printable
from hftl.files import read_json, read_text
from hftl.recipe import Recipe
from hftl.recipe import load_recipe as read_recipe
from hftl.run import RunDirectory
from hftl.terminal import Markdown, Say, tell

if TYPE_CHECKING:
    from pandas import DataFrame

    from hftl.studies.cost import StudyPlan
    from hftl.studies.find_lr import RangePlan
    from hftl.studies.search import Pruner, Sampler
    from hftl.studies.space import Space
    from hftl.studies.trials import Experiments
    from hftl.studies.tune import Settings, TuningPlan

GOES_ON = "the same call goes on with the study"
"""After Ctrl-C."""


class Study:
    """A study that was carried out: its table, its figures and its page. The functions below make one; so does its directory.

    Args:
        path: the study's directory.
    """

    def __init__(self, path: str | Path) -> None:
        from hftl.studies.study import StudyDirectory

        self.paths = StudyDirectory(Path(path))

    @property
    def path(self) -> Path:
        """The study's directory."""
        return self.paths.path

    @property
    def table(self) -> DataFrame:
        """A row for each trial.

        Raises:
            RunError: the study is not done.
        """
        from pandas import read_csv

        return read_csv(self._written(self.paths.table))

    @property
    def best(self) -> Recipe:
        """The recipe that did best on validation; its test split is as the study's recipe has it.

        Raises:
            RunError: the study is not done, or chooses nothing.
        """
        return read_recipe(self._written(self.paths.best))

    @property
    def figures(self) -> list[Path]:
        """The figures, as PNG files."""
        return sorted(self.paths.figures.glob("*.png"))

    @property
    def page(self) -> Markdown:
        """What came out, as Markdown.

        Raises:
            RunError: the study is not done.
        """
        return Markdown(read_text(self._written(self.paths.page)))

    @property
    def best_run(self) -> Run:
        """The run of the trial that `tune` has chosen: once it is finished with its model and its numbers.

        Raises:
            RunError: the study is not done, or chooses no single trial.
        """
        return self.trial(str(read_json(self._written(self.paths.chosen)).get("trial", "")))

    def _written(self, file: Path) -> Path:
        if not file.is_file():
            what = "the study is not done, and the same command goes on with it; or it chooses nothing"
            raise RunError(f"{self.path}: no {file.name} here: {what}")
        return file

    def trial(self, name: str) -> Run:
        """A trial as a run: one that was finished has a model, the others have their history and validation predictions."""
        return Run(self.paths.trial(name))

    def __repr__(self) -> str:
        return f'Study("{printable(str(self.path))}")'

    def _repr_markdown_(self) -> str:
        return self.shown()

    def shown(self) -> str:
        """The page without its figures, as a notebook and the terminal show it."""
        return self.page._repr_markdown_()


def ablate(
    recipe: Recipe,
    over: Sequence[str] = ("staged", "flat", "head-x10", "decay"),
    *,
    seeds: int = 3,
    budget: Literal["equal-steps", "equal-cost"] = "equal-steps",
    open_test: bool = False,
    study_dir: str | Path | None = None,
    source: str = "recipe",
    say: Say = tell,
) -> Study:
    """Does staging pay here? Fit a recipe's arms with several seeds on the same rows and compare them, the test split sealed.

    Args:
        recipe: what is varied.
        over: the arms, the first one is what the others are compared with: names of `hftl.studies.arms`, or own ones as
            ``"name=key=value,key=value"``.
        seeds: fits of each arm, from `run.seed` on; all are judged by the same validation rows.
        budget: "equal-steps": arms by name train for as many epochs as the recipe; "equal-cost": each arm's last stage has the
            epochs that make it cost about what the first arm does.
        open_test: finish every trial and open the test split, once each, which each run writes down.
        study_dir: where the study is written, or continued; None: studies/NAME-ablate.
        source: what the recipe is called in errors.
        say: is told of each trial.

    Raises:
        RecipeError, DataError: the recipe or an arm cannot be used.
        RunError: the folder holds another study, or every trial failed.
    """
    from hftl.studies.ablate import ablate as run_ablation
    from hftl.studies.ablate import ablation

    recipe, experiments = _judged_once(recipe)
    arms, question = ablation(recipe, over, seeds=seeds, budget=budget, open_test=open_test, source=source)
    study = Study(study_dir if study_dir is not None else Path("studies") / f"{recipe.name}-ablate")
    with _stoppable(say):
        cells = run_ablation(study.paths, recipe, arms, question, say=say, experiments=experiments)
    if open_test:
        for cell in cells:
            _finish_trial(study, cell.name, open_test=True, say=say)
    return study


def repeat(
    recipe: Recipe,
    *,
    seeds: int | None = None,
    folds: int | None = None,
    study_dir: str | Path | None = None,
    source: str = "recipe",
    say: Say = tell,
) -> Study:
    """How much is luck? Fit a recipe with several seeds, or on several folds of its training rows, the test split sealed.

    Args:
        recipe: what is fitted.
        seeds: from `run.seed` on, on the same rows.
        folds: stratified by label, equal contents on one side.
        study_dir: where the study is written, or continued; None: studies/NAME-repeat.
        source: what the recipe is called in errors.
        say: is told of each trial.

    Raises:
        RecipeError, DataError: the recipe cannot be used; neither or both of `seeds` and `folds` are given.
        RunError: the folder holds another study, or every trial failed.
    """
    from hftl.studies.ablate import repeat as run_repetition
    from hftl.studies.ablate import repetition

    recipe, experiments = _judged_once(recipe)
    question = repetition(seeds=seeds, folds=folds)
    study = Study(study_dir if study_dir is not None else Path("studies") / f"{recipe.name}-repeat")
    with _stoppable(say):
        run_repetition(study.paths, recipe, question, say=say, experiments=experiments)
    return study


def baseline(recipe: Recipe, *, study_dir: str | Path | None = None, source: str = "recipe", say: Say = tell) -> Study:
    """Would something simple do? Fit baselines on a recipe's training rows, each chosen on validation; test stays shut.

    The majority class; for texts TF-IDF of words and of letters into linear classifiers, for pictures a histogram of colours; for
    a pretrained model its frozen features, by logistic regression and by nearest neighbours. Nothing of the model is trained.

    Args:
        recipe: of its data and its model; the stages have no say.
        study_dir: where the study is written; None: studies/NAME-baseline.
        source: what the recipe is called in errors.
        say: is told of each baseline, and of what cannot be fitted.

    Raises:
        RecipeError, DataError: the recipe cannot be used.
        RunError: the folder holds another study, or the training rows are of one class.
    """
    from hftl.studies.baseline import baseline as run_baselines

    recipe = _judged(recipe)
    study = Study(study_dir if study_dir is not None else Path("studies") / f"{recipe.name}-baseline")
    with _stoppable(say):
        run_baselines(study.paths, recipe, source=source, say=say)
    return study


def plan_ablation(
    recipe: Recipe,
    over: Sequence[str] = ("staged", "flat", "head-x10", "decay"),
    *,
    seeds: int = 3,
    budget: Literal["equal-steps", "equal-cost"] = "equal-steps",
    source: str = "recipe",
) -> StudyPlan:
    """What `ablate` would cost. Trains nothing but a few steps, which are thrown away.

    Raises:
        RecipeError, DataError: the recipe or an arm cannot be used.
    """
    from hftl.studies.ablate import ablation
    from hftl.studies.ablate import plan_ablation as plan_arms

    return plan_arms(*ablation(recipe, over, seeds=seeds, budget=budget, open_test=False, source=source))


def plan_repetition(recipe: Recipe, *, seeds: int | None = None, folds: int | None = None, source: str = "recipe") -> StudyPlan:
    """What `repeat` would cost. Trains nothing but a few steps, which are thrown away.

    Raises:
        RecipeError, DataError: the recipe cannot be used.
    """
    from hftl.studies.ablate import repetition
    from hftl.studies.cost import plan_study

    question = repetition(seeds=seeds, folds=folds)
    (times,) = question.settings.values()
    return plan_study("repeat", {recipe.name: recipe}, times=times)


def curve(
    recipe: Recipe,
    sizes: Sequence[int],
    *,
    seeds: int = 3,
    full: bool = False,
    study_dir: str | Path | None = None,
    source: str = "recipe",
    say: Say = tell,
) -> Study:
    """How many more labels? Fit nested parts of train of growing size, and say by a power law what more rows would bring.

    Args:
        recipe: what is fitted.
        sizes: rows of train; four or more, or the fit is not to be trusted.
        seeds: fits of each size, from `run.seed` on; all are judged by the same validation rows.
        full: fit the recipe's own stages; otherwise the head alone, on frozen features, for as many epochs.
        study_dir: where the study is written, or continued; None: studies/NAME-curve.
        source: what the recipe is called in errors.
        say: is told of each trial.

    Raises:
        RecipeError, DataError: the recipe or a size cannot be used.
        RunError: the folder holds another study, or too many trials failed.
    """
    from hftl.studies.curve import curve as run_curve
    from hftl.studies.curve import question_of

    recipe, experiments = _judged_once(recipe)
    question = question_of(sizes, seeds=seeds, full=full, source=source)
    study = Study(study_dir if study_dir is not None else Path("studies") / f"{recipe.name}-curve")
    with _stoppable(say):
        run_curve(study.paths, recipe, question, say=say, source=source, experiments=experiments)
    return study


def plan_curve(recipe: Recipe, sizes: Sequence[int], *, seeds: int = 3, full: bool = False, source: str = "recipe") -> StudyPlan:
    """What `curve` would cost. Trains nothing but a few steps, which are thrown away.

    Raises:
        RecipeError, DataError: the recipe or a size cannot be used.
    """
    from hftl.studies.curve import plan_curve as plan_sizes
    from hftl.studies.curve import question_of

    return plan_sizes(recipe, question_of(sizes, seeds=seeds, full=full, source=source), source=source)


def find_lr(
    recipe: Recipe, *, stage: str | None = None, study_dir: str | Path | None = None, source: str = "recipe", say: Say = tell
) -> Study:
    """The learning-rate range test on each stage, or on one: how the loss answers to rates that rise from step to step.

    A rate is suggested for heads and for networks without attention alone. The weights are thrown away.

    Args:
        recipe: whose stages are tested; layer decay and the head's multiplier keep their ratios.
        stage: the one; None: each.
        study_dir: where the study is written; None: studies/NAME-find-lr.
        source: what the recipe is called in errors.
        say: is told of each stage.

    Raises:
        RecipeError, DataError: the recipe cannot be used, or has no such stage.
        RunError: the folder holds another study.
    """
    from hftl.studies.find_lr import find_lr as run_test
    from hftl.studies.find_lr import question_of

    recipe = _judged(recipe)
    question = question_of(recipe, stage, source=source)
    study = Study(study_dir if study_dir is not None else Path("studies") / f"{recipe.name}-find-lr")
    with _stoppable(say):
        run_test(study.paths, recipe, question, say=say, source=source)
    return study


def plan_find_lr(recipe: Recipe, *, stage: str | None = None, source: str = "recipe") -> RangePlan:
    """What `find_lr` would cost. Trains nothing but a few steps, which are thrown away.

    Raises:
        RecipeError, DataError: the recipe cannot be used, or has no such stage.
    """
    from hftl.studies.find_lr import plan_find_lr as plan_test
    from hftl.studies.find_lr import question_of

    return plan_test(recipe, question_of(recipe, stage, source=source), source=source)


def tune(
    recipe: Recipe,
    space: Sequence[str] | Mapping[str, str],
    *,
    trials: int | None = None,
    minutes: float | None = None,
    sampler: Sampler = "tpe",
    pruner: Pruner = "none",
    storage: str | None = None,
    join: bool = False,
    study_dir: str | Path | None = None,
    source: str = "recipe",
    say: Say = tell,
) -> Study:
    """Which values are best? Fit trials of a recipe by validation, the test split sealed, and finish the best one.

    ``.best`` of the study is the recipe of the best trial, ``.best_run`` that trial as a run, with its model. Test is opened for it
    alone, where the recipe opens test. What it shows on validation is corrected for having been the best of many. Needs
    `pip install "hftl[tune]"`.

    Args:
        recipe: what is varied.
        space: ``["stages.all.lr=log:1e-5..1e-3", "stages.top=on|off"]``, or the same as a dict, or YAML files; see
            `hftl.studies.space`.
        trials: how many in all, those of earlier calls counted.
        minutes: after so many this call begins no further trial.
        sampler: "grid", "random", "tpe" (tree-structured Parzen estimator), "cmaes" or "evolution".
        pruner: "none", or what ends a trial between two epochs: "median" or "hyperband".
        storage: the address of a database, such as "postgresql://user@host/name", or a journal file; None: SQLite in the study's
            folder.
        join: beside other processes, each started so, that share the study's folder.
        study_dir: where the study is written, or continued; None: studies/NAME-tune.
        source: what the recipe is called in errors.
        say: is told of each trial.

    Raises:
        RecipeError, DataError: the recipe or the space cannot be used.
        RunError: the folder holds another study, the storage cannot be used, or every trial failed.
    """
    from hftl.studies.tune import tune as run_tuning

    recipe, experiments = _judged_once(recipe)
    read, settings = _tuning(
        recipe, space, trials=trials, minutes=minutes, sampler=sampler, pruner=pruner, storage=storage, source=source
    )
    study = Study(study_dir if study_dir is not None else Path("studies") / f"{recipe.name}-tune")

    def finish(name: str) -> RunDirectory:
        return _finish_trial(study, name, open_test=recipe.opens_test, say=say).paths

    with _stoppable(say):
        run_tuning(study.paths, recipe, read, settings, join=join, finish=finish, say=say, experiments=experiments)
    return study


def plan_tuning(
    recipe: Recipe,
    space: Sequence[str] | Mapping[str, str],
    *,
    trials: int | None = None,
    minutes: float | None = None,
    sampler: Sampler = "tpe",
    pruner: Pruner = "none",
    source: str = "recipe",
) -> TuningPlan:
    """What `tune` would cost, by some trials that are drawn. Trains nothing but a few steps, which are thrown away.

    Raises:
        RecipeError, DataError: the recipe or the space cannot be used.
        RunError: Optuna is not installed.
    """
    from hftl.studies.tune import plan_tuning as plan_trials

    read, settings = _tuning(
        recipe, space, trials=trials, minutes=minutes, sampler=sampler, pruner=pruner, storage=None, source=source
    )
    return plan_trials(recipe, read, settings)


def _judged_once(recipe: Recipe) -> tuple[Recipe, Experiments]:
    """The same as `_judged`, and what keeps the data that were read for it, for the trials."""
    from hftl.studies.trials import Experiments

    experiments = Experiments()
    return experiments.judged(recipe), experiments


def _judged(recipe: Recipe) -> Recipe:
    """The recipe with the metric that its trials are compared by: where it leaves that to the data, these are read to know it."""
    from hftl.training.experiment import judged_by_its_data

    return judged_by_its_data(recipe)


def _tuning(
    recipe: Recipe,
    space: Sequence[str] | Mapping[str, str],
    *,
    trials: int | None,
    minutes: float | None,
    sampler: Sampler,
    pruner: Pruner,
    storage: str | None,
    source: str,
) -> tuple[Space, Settings]:
    """A space and how it is searched, once both are known to fit the recipe."""
    from hftl.studies.search import STORAGE
    from hftl.studies.space import read_space
    from hftl.studies.tune import Settings, check_settings

    words = [f"{key}={text}" for key, text in space.items()] if isinstance(space, Mapping) else list(space)
    read = read_space(recipe, words, source=source)
    settings = Settings(sampler, pruner, trials, minutes, storage or STORAGE)
    check_settings(read, settings, source=source)
    return read, settings


def _finish_trial(study: Study, name: str, *, open_test: bool, say: Say) -> Run:
    """Finish a trial: its model, its card, and with `open_test` its test split, opened once."""
    from rich.console import Console

    run = study.trial(name)
    if not run.finished:
        run = train(run.recipe, run_dir=run.path, resume=True, console=Console(quiet=True))
    if open_test and "test" not in run.metrics:
        run.test(say=say)
    return run


@contextmanager
def _stoppable(say: Say) -> Iterator[None]:
    """A signal stops the trial that is running, whose progress nobody sees: say that nothing is lost."""
    try:
        with signals.interruptible(GOES_ON):
            yield
    except signals.Stopped:
        say("stopped; the same command goes on with the study")
        raise
