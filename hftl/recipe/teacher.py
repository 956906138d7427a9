"""The section `teacher`: a finished run whose answers a smaller model learns from, beside the labels."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from hftl.recipe.section import Section


class Teacher(Section):
    """A finished run whose answers this recipe's model learns from, beside the labels (Hinton et al. 2015, arXiv:1503.02531).

    The loss of a row is ``weight * temperature ** 2 * KL(teacher, model) + (1 - weight) * the stage's loss``, with both models'
    probabilities at the temperature. Rows without a label, those of `data.unlabelled`, have the teacher's part alone.
    """

    run: Annotated[str, Field(min_length=1)]
    """Its run directory; or the folder `teacher` of a run that it has taught, which has its answers to that run's rows."""
    temperature: Annotated[float, Field(gt=0.0)] = 2.0
    """Both models' logits are divided by it: above 1 the answers that the teacher holds for less likely count more."""
    weight: Annotated[float, Field(gt=0.0, le=1.0)] = 0.7
    """Of the teacher in the loss of a row that has a label; the label has the rest. 1: labels choose the weights, and no more."""
