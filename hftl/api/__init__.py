"""The one door: everything that hftl does, as functions of a recipe, and methods of a run and of a study.

A notebook and the command line go through it, so each promise (one opening of the test split, a card after training, every gate
before a push) holds for both. What is heavy is imported where it is used: the door loads neither torch nor transformers.

    training    init, load_recipe, first_recipe, plan, audit, show, vectors, pretrain; train, fine_tune, distill
    labelling   pseudo_label, borrow
    run         Run, load, compare, runs, pull; features, features_to, of a checkpoint too
    studies     Study, ablate, repeat, baseline, tune, curve, find_lr
"""

from hftl.api.extraction import features, features_to
from hftl.api.labelling import borrow, pseudo_label
from hftl.api.run import Run, compare, load, pull, runs
from hftl.api.studies import (
    Study,
    ablate,
    baseline,
    curve,
    find_lr,
    plan_ablation,
    plan_curve,
    plan_find_lr,
    plan_repetition,
    plan_tuning,
    repeat,
    tune,
)
from hftl.api.training import (
    audit,
    distill,
    examine,
    fine_tune,
    first_recipe,
    init,
    load_recipe,
    plan,
    plan_pretraining,
    pretrain,
    show,
    train,
    vectors,
)

__all__ = [
    "Run",
    "Study",
    "ablate",
    "audit",
    "baseline",
    "borrow",
    "compare",
    "curve",
    "distill",
    "examine",
    "features",
    "features_to",
    "find_lr",
    "fine_tune",
    "first_recipe",
    "init",
    "load",
    "load_recipe",
    "plan",
    "plan_ablation",
    "plan_curve",
    "plan_find_lr",
    "plan_pretraining",
    "plan_repetition",
    "plan_tuning",
    "pretrain",
    "pseudo_label",
    "pull",
    "repeat",
    "runs",
    "show",
    "train",
    "tune",
    "vectors",
]
