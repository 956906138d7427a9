"""The adapters of a stage: how large they are, and of which modules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field

from hftl.recipe.section import Fraction, Names, Positive, Section


class Lora(Section):
    """LoRA (Hu et al. 2021, arXiv:2106.09685): a module's weight W stays as it is, and ``alpha / r * B A`` is trained beside it.

    A has r rows, and B, of zeros at first, r columns: of a layer of 768 x 768 and r = 8 they are 12,288 numbers beside 589,824. At
    the end of the stage the product is added to W, so that the model has no adapters. peft's, with the extra `lora`.
    """

    r: Positive = 8
    """The rank: rows of A, and columns of B."""
    alpha: Annotated[float, Field(gt=0.0)] = 16.0
    """The product of the two is multiplied by ``alpha / r``; another r then asks for no other rate."""
    dropout: Fraction = 0.0
    """Share of what enters A that is dropped in training."""
    targets: Names | None = None
    """The modules that have adapters, by the ends of their names, such as "query" or "mlp.fc1"; None: every linear layer and
    convolution of the layer groups that the stage trains, below the head."""

    @property
    def words(self) -> str:
        """For people: "LoRA r=8"."""
        return f"LoRA r={self.r}"


def section_of_rank(value: object) -> object:
    """A number, which stands for adapters of that rank, as a mapping."""
    return {"r": value} if isinstance(value, int | str) and not isinstance(value, bool) else value


if TYPE_CHECKING:  # what a stage may be given; it keeps the section
    AnyLora = int | Lora
else:
    AnyLora = Annotated[Lora, BeforeValidator(section_of_rank, json_schema_input_type=Positive | Lora)]
