"""The recipe that `hftl.fine_tune` trains: two stages whose rates and epochs follow from the model's size and the number of rows.

The rule, which rests on ablations as far as they went (docs/findings.md):

- Stage "head", a linear probe: everything but the head is frozen, so that its epochs take seconds where what leaves the frozen
  layers is kept on disk. Stage "all": every layer; the rate falls by 0.8 from each layer group to the one below, and the head's is
  twice that of the top.
- Epochs: as many as make about 300 steps of "head" and 600 of "all", but 1 to 8 of the one and 2 to 8 of the other. Steps of 32
  examples, of 16 below 1,000 training rows. A transformer has one of the epochs of "head", and the others are of "all": its layers
  have the most to learn.
- Rates, AdamW, falling over the stage after a tenth of warmup: transformers with 60 million parameters or more 1e-3, then 3e-5
  (BERT's size); with 20 million or more 1e-3, then 1e-4 (MiniLM's); smaller ones 5e-3, then 5e-4. timm's networks 3e-3, then 5e-4;
  with 60 million parameters or more 1e-3, then 1e-4, which nobody has measured here.
- Of each epoch validation decides what is kept, so that a stage that improves nothing is undone: by accuracy, and of several labels
  an example by macro F1.
"""

from __future__ import annotations

import math

from hftl.recipe import ImageData, LinearSchedule, Recipe, RunSettings, Stage, TextData, Timm, Transformer

FEW_ROWS = 1_000


def default_recipe(name: str, data: TextData | ImageData, model: Transformer | Timm, *, rows: int, parameters: int) -> Recipe:
    """The recipe for so many training rows and a model of so many parameters; the module says by which rule.

    With 480 rows a step has 16 examples and an epoch 30 steps: 8 epochs of "head", since 10 would make 300 steps, and 8 of "all";
    of a transformer 1 and 15. With 22,500 rows an epoch has 704 steps: 1 and 2.
    """
    batch_size = 16 if rows < FEW_ROWS else 32
    per_epoch = math.ceil(rows / batch_size)
    from hftl.models import family_of  # with transformers, which takes seconds

    family = family_of(model.family)
    assert family.default_rates is not None  # what is pretrained has them
    head, everything = family.default_rates(parameters)
    epochs = _epochs(300, per_epoch, least=1), _epochs(600, per_epoch, least=2)
    if family.short_head_stage:
        epochs = 1, sum(epochs) - 1
    return Recipe(
        name=name,
        data=data,
        model=model,
        stages={
            "head": Stage(unfreeze="head", lr=head, epochs=epochs[0], schedule=LinearSchedule(warmup=0.1)),
            "all": Stage(
                unfreeze="all",
                lr=everything,
                layer_decay=0.8,
                head_lr_multiplier=2,
                epochs=epochs[1],
                schedule=family.default_schedule(warmup=0.1),
            ),
        },
        run=RunSettings(batch_size=batch_size),
    )


def _epochs(steps: int, per_epoch: int, *, least: int) -> int:
    """Epochs that make about so many steps, at most 8."""
    return min(8, max(least, round(steps / per_epoch)))
