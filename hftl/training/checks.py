"""What is refused before a run is started or continued.

Nothing is written over, a run is continued as itself or not at all, and what would stop it after hours stops it now.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from accelerate import Accelerator

from hftl.data.loader import Samples
from hftl.data.targets import targets_of
from hftl.errors import DataError, Problem, RecipeError, RunError
from hftl.files import PARTIAL
from hftl.memory import ROWS
from hftl.models.chain import UnknownGroup
from hftl.models.image_size import why_not
from hftl.models.recompute import check_recomputable
from hftl.names import CHOOSERS, ONE_LABEL, SEVERAL_LABELS
from hftl.recipe import Adafactor, ContrastiveLoss, Muon, Recipe, TextData, difference, judged, refuse_secrets
from hftl.records.environment import read_environment
from hftl.run import RunDirectory
from hftl.system import LOCK
from hftl.training.checkpoint import KEPT, checkpoint_bytes
from hftl.training.experiment import Experiment, check_views, make_samples, stage_weights, two_examples
from hftl.training.loss import check_loss
from hftl.training.plan import Plan
from hftl.training.resolved import ResolvedStage
from hftl.training.stage import train_mode

# What may differ between a stopped run and its continuation: none of it changes what is computed.
FREE_TO_CHANGE = (
    "run.workers:",
    "run.baseline:",
    "run.log_every:",
    "run.trackers:",
    "run.checkpoint_minutes:",
    "run.timeout_minutes:",
    "card.",
    "name:",
    "data.unlabelled:",
)


def check_run_directory(run: RunDirectory, recipe: Recipe, *, resume: bool) -> None:
    """Refuse to write over anything, to continue a run as another one, and a recipe that may not be written."""
    refuse_secrets(recipe)
    if run.path.exists() and not run.path.is_dir():
        raise RunError(f"{run.path} is a file; a run needs a folder of its own")
    if not resume:
        # The rows that were in memory are there before the run is, see `hftl.memory`.
        before = re.compile(rf"{re.escape(LOCK)}|{ROWS}(-\d+)?|.*{re.escape(PARTIAL)}")
        if run.path.exists() and any(not before.fullmatch(path.name) for path in run.path.iterdir()):
            if run.finished:
                raise RunError(f"{run.path} holds a finished run, which is never written over. Choose another place with --run-dir")
            if not run.recipe.is_file():
                raise RunError(f"{run.path} is not empty, and no run is in it. Choose another place with --run-dir")
            raise RunError(f"{run.path} is not empty. Continue that run with --resume, or choose another place with --run-dir")
        return
    if not run.recipe.is_file():
        raise RunError(f"{run.path}: no run here (there is no recipe.yaml in it). Leave out --resume to start one")
    if run.finished:
        raise RunError(f"{run.path}: this run is finished; there is nothing to resume. Its card again: hftl card {run.path}")
    check_same_recipe(run, recipe)


def check_same_recipe(run: RunDirectory, recipe: Recipe) -> None:
    """Refuse to go on with a run by another recipe than its own."""
    free: tuple[str, ...] = FREE_TO_CHANGE if run.test_openings.is_file() else (*FREE_TO_CHANGE, "run.test: open -> sealed")
    if recipe.learns_unlabelled:
        free = tuple(key for key in free if key != "data.unlabelled:")
    started = run.load_recipe()
    before, now = (judged(each, started.run.chooser) for each in (started, recipe))
    changed = [line for line in difference(before, now) if not line.startswith(free)]
    if changed:
        raise RunError(
            "\n".join(
                [
                    f"{run.path}: the recipe is not the one this run was started with:",
                    *(f"  {line}" for line in changed),
                    "  Continue it without the change, or train the changed recipe in another place with --run-dir",
                ]
            )
        )


def check_stages(experiment: Experiment, source: str) -> None:
    """Refuse now what would stop a later stage after hours.

    Raises:
        RecipeError: layer groups, class weights, losses, sizes of pictures, a metric, an augmentation or views that do not fit this
            model or these data, all of them in one report.
    """
    recipe, splits = experiment.recipe, experiment.splits
    problems: list[Problem] = []
    try:
        experiment.stages  # noqa: B018  # resolved here first
    except RecipeError as error:
        problems += error.problems
    problems += _frozen_random_groups(experiment)
    target = experiment.classifier.target
    for name, stage in recipe.stages.items():
        assert not isinstance(stage.loss, str)  # it keeps the section
        try:
            check_loss(stage.loss, target)
            stage_weights(experiment, stage)
        except RecipeError as error:
            problems += [Problem(f"stages.{name}.{problem.where}", problem.what, problem.help) for problem in error.problems]
    if not problems:
        problems += [
            Problem(
                f"stages.{stage.name}.loss",
                '"r_drop" compares two passes whose dropout differs, and nothing that this stage trains drops anything',
                ("give the model some, such as model.dropout=0.1, or train more layers, or write another loss",),
            )
            for stage in experiment.stages
            if stage.loss.passes > 1 and not _passes_differ(experiment, stage)
        ]
        problems += _incomparable(experiment)
    if recipe.run.chooser not in CHOOSERS[target]:
        wanted, given = ("one label", "several") if target == SEVERAL_LABELS else ("several labels", "one each")
        what = f'"{recipe.run.chooser}" is a metric of {wanted} an example, and these examples have {given}'
        problems.append(Problem("run.metric", what, (f"metrics there are: {', '.join(CHOOSERS[target])}",)))
    of_validation = splits.target.counts(targets_of(splits.validation), splits.label_names)
    if recipe.run.chooser == "auc" and target == ONE_LABEL and not of_validation.all():
        names = ", ".join(splits.label_names[index] for index in np.flatnonzero(of_validation == 0))
        problems.append(Problem("run.metric", f"auc is undefined: the validation split has no example of {names}"))
    problems += _wrong_sizes(experiment) if not problems else []
    try:
        make_samples(recipe, experiment.classifier, splits.train.select(range(1)), train=True)
    except RecipeError as error:
        problems += error.problems
    if recipe.run.gradient_checkpointing:
        try:
            check_recomputable(experiment.classifier.model, experiment.classifier.chain)
        except RecipeError as error:
            problems += error.problems
    try:
        check_views(recipe, experiment.typical, recipe.run.tta)
    except DataError as error:
        problems += [Problem("run.tta", problem.what, problem.help) for problem in error.problems]
    if problems:
        raise RecipeError(source, problems)


def _frozen_random_groups(experiment: Experiment) -> Iterator[Problem]:
    """Groups with random weights that the first stage freezes, also under adapters: what is above them would learn from noise."""
    (name, stage), chain = next(iter(experiment.recipe.stages.items())), experiment.classifier.chain
    random = experiment.classifier.facts.get("reinitialized", ())
    if stage.lora is not None and (random or not experiment.classifier.facts.get("pretrained", True)):
        what = (
            "adapters go beside weights that are random, by model.reinitialize or without pretraining: they would learn from noise"
        )
        yield Problem(f"stages.{name}.lora", what, ("train these layers themselves in a stage before this one, or leave lora out",))
        return
    try:
        frozen = [group for group in random if group not in chain.select(stage.unfreeze)]
    except UnknownGroup:  # reported already
        return
    if frozen:
        what = f"freezes {', '.join(frozen)}, whose weights model.reinitialize makes random: what is above would learn from noise"
        help = f'let it train "last {len(random)}" or more, or leave model.reinitialize out'
        yield Problem(f"stages.{name}.unfreeze", what, (help,))


def _incomparable(experiment: Experiment) -> Iterator[Problem]:
    """The stages whose loss compares the examples of a step with each other, and cannot, or to no effect."""
    recipe, classifier = experiment.recipe, experiment.classifier
    for stage in experiment.stages:
        if not isinstance(stage.loss, ContrastiveLoss):
            continue
        where, compares = f"stages.{stage.name}", '"contrastive" compares the examples of a step'
        if stage.mix is not None:
            yield Problem(f"{where}.mix", f"{compares} by their class, and a mixed one has two", ("leave out one of both",))
        if recipe.teacher is not None:
            yield Problem(f"{where}.loss", f"{compares}, and a teacher answers each by itself", ("leave out one of both",))
        if recipe.run.gradient_accumulation > 1:
            what = f"{compares}, and run.gradient_accumulation cuts the step into {recipe.run.gradient_accumulation} pieces"
            yield Problem(f"{where}.loss", what, (f"leave it out, or write a smaller {where}.batch_size",))
        if recipe.run.compile:
            what = f"{compares} by what enters the output layer, and nobody has tried to look there in compiled layers"
            yield Problem(f"{where}.loss", what, ("leave run.compile out, or write another loss",))
        if isinstance(recipe.data, TextData) and recipe.data.windows is not None:
            what = f"{compares}, and with data.windows what enters the output layer is a window of one"
            yield Problem(f"{where}.loss", what, ("write data.truncate=head+tail instead of windows, or another loss",))
            continue
        try:
            output = experiment.output_layer
        except RecipeError as error:
            yield from (Problem(f"{where}.loss", problem.what, problem.help) for problem in error.problems)
            continue
        trained = [name for group in stage.trains for name in classifier.chain.parameters[group]]
        if stage.adapters is None and all(name.rpartition(".")[0] == output for name in trained):
            what = f"{compares} by what enters the output layer, and this stage trains nothing before that"
            yield Problem(f"{where}.loss", what, (f'let it train more, such as {where}.unfreeze="last 2"',))


def _passes_differ(experiment: Experiment, stage: ResolvedStage) -> bool:
    """Whether two passes of an example differ in a stage's training, as by dropout."""
    if stage.adapters is not None and stage.adapters.lora.dropout:
        return True  # though not before the first step, as long as B is 0
    model, chain = stage.copy_of(experiment.classifier.model, experiment.classifier.chain)
    # Many rows: of two small ones dropout may leave everything in.
    inputs = {name: torch.cat([tensor] * 8) for name, tensor in two_examples(experiment).items()}
    train_mode(model, chain, stage.trains)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        first, second = (model(**inputs).logits for _ in range(2))
    return not torch.equal(first, second)


def _wrong_sizes(experiment: Experiment) -> Iterator[Problem]:
    """The stages whose pictures have a size that the network cannot take."""
    for stage in experiment.stages:
        if stage.image_size is not None and (reason := why_not(experiment.classifier, stage.image_size)) is not None:
            what = f"the network cannot take pictures of {stage.image_size} x {stage.image_size} pixels in one stage alone"
            help = (reason, "networks of convolutions take any size that is not too small; write data.image_size for all stages")
            yield Problem(f"stages.{stage.name}.image_size", what, help)


def check_batch_sizes(experiment: Experiment, train: Samples, accelerator: Accelerator) -> None:
    """A step's examples must be enough for every process and micro-batch, and for BatchNorm, which may need two of them.

    Raises:
        RecipeError: they are not, in one of the stages.
    """
    recipe, parts = experiment.recipe, accelerator.num_processes * experiment.recipe.run.gradient_accumulation
    for stage in experiment.stages:
        shared = f"{accelerator.num_processes} processes x {recipe.run.gradient_accumulation} micro-batches of a step"
        if stage.batch_size < parts:
            raise RecipeError.single(f"stages.{stage.name}.batch_size", f"fewer than the {shared}")
        last = len(train) - stage.batch_size * (stage.steps_per_epoch - 1)
        if last // parts < 2 and not _learns_from_one(experiment, stage, experiment.training_samples(stage)):
            what = (
                f"the last step of an epoch has {last} of the {len(train)} examples, so that one of the {shared} has a single one"
            )
            raise RecipeError.single(
                f"stages.{stage.name}.batch_size", what, "BatchNorm cannot train on one picture of this size; try other batch sizes"
            )


def check_pieces(stages: Sequence[ResolvedStage], accelerator: Accelerator) -> None:
    """Refuse an optimizer that cannot train a model in pieces, and an average of weights that lie in pieces.

    Raises:
        RecipeError: Adafactor is asked for under FSDP, where torch 2.14 does not know the norm of a piece of a tensor; or Muon,
            whose step is of whole matrices; adapters, which would have to be merged piece by piece; or an average, which is written
            into checkpoints by the main process alone.
    """
    if not accelerator.is_fsdp2:
        return
    problems = []
    for stage in stages:
        if isinstance(stage.optimizer, Adafactor | Muon):
            what = f"{stage.optimizer.kind} does not train a model that FSDP keeps in pieces"
            problems.append(Problem(f"stages.{stage.name}.optimizer", what, ("lion keeps half of adamw's memory",)))
        if stage.adapters is not None:
            what = "no adapters are trained of a model that FSDP keeps in pieces"
            problems.append(Problem(f"stages.{stage.name}.lora", what, ("leave them out, or train without FSDP: multi_gpu.yaml",)))
        if stage.average is not None:
            what = "no average is kept of weights that FSDP has in pieces"
            problems.append(Problem(f"stages.{stage.name}.average", what, ("leave it out, or train without FSDP: multi_gpu.yaml",)))
    if problems:
        raise RecipeError("recipe", problems)


def _learns_from_one(experiment: Experiment, stage: ResolvedStage, train: Samples) -> bool:
    """Whether the stage's network can train on a batch of one: BatchNorm over a single number has no variance."""
    model, chain = stage.copy_of(experiment.classifier.model, experiment.classifier.chain)
    train_mode(model, chain, stage.trains)
    inputs = train.to_device(train.collate([train[0, 0]]), torch.device("cpu"))
    try:
        with torch.no_grad():
            model(**inputs)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        return False
    return True


def check_same_precision(accelerator: Accelerator, run: RunDirectory) -> None:
    """Refuse to continue in another number format, which `auto` may choose on another machine."""
    then, here = read_environment(run)["precision"], number_format(accelerator)
    if then != here:
        raise RunError(f"{run.path}: started in {then}, and this machine computes in {here}; continue it where it was started")


def other_precision(accelerator: Accelerator, run: RunDirectory) -> list[str]:
    """A line where a finished run is evaluated in another number format than it was trained in; none otherwise."""
    then, here = read_environment(run)["precision"], number_format(accelerator)
    return [] if then == here else [f"trained in {then}, evaluated in {here}: numbers differ a little from those on record"]


def number_format(accelerator: Accelerator) -> str:
    """ "bf16", "fp16" or "fp32", as environment.json has it; the weights are float32 in each."""
    name: str = accelerator.mixed_precision
    return "fp32" if name == "no" else name


def check_space(experiment: Experiment, plan: Plan, run: RunDirectory) -> None:
    """Refuse to start what the disk has no room for: the checkpoints that are kept and the one being written, and the model.

    Raises:
        RunError: the room is too small.
    """
    beside_the_weights = max(stage.optimizer_bytes + stage.average_bytes for stage in plan.stages)
    checkpoint = checkpoint_bytes(experiment.classifier.model, optimizer_bytes=beside_the_weights)
    needed = (KEPT + 2) * checkpoint
    present = next(path for path in (run.path.absolute(), *run.path.absolute().parents) if path.exists())
    free = shutil.disk_usage(present).free + sum(path.stat().st_size for path in run.checkpoints.rglob("*") if path.is_file())
    if free < needed:
        raise RunError(
            f"{run.path}: {needed / 1e6:,.0f} MB are needed there, {free / 1e6:,.0f} MB are free."
            f" A checkpoint takes {checkpoint / 1e6:,.0f} MB; make room, or choose another place with --run-dir"
        )
