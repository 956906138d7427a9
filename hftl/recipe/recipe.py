"""The whole recipe: its sections, what must fit between them, and what its facts are about."""

from __future__ import annotations

import json
from collections.abc import Mapping, Set
from typing import Any, Self

from pydantic import Field, PrivateAttr, model_validator

from hftl.errors import Problem, RecipeError
from hftl.names import Chooser
from hftl.recipe.card import ABOUT, AUTHOR, PROSE, READ, Card
from hftl.recipe.data import AnyData, ImageData, TextData
from hftl.recipe.model import CNN, AnyModel, Timm, Transformer, WordVectors
from hftl.recipe.places import EXTRA, LOCAL, is_same, local_name
from hftl.recipe.section import Name, Section, leaves
from hftl.recipe.settings import RunSettings
from hftl.recipe.stage import Stage
from hftl.recipe.teacher import Teacher
from hftl.recipe.text import write_yaml
from hftl.secrets import environment_secrets, find_secrets, is_random


class Recipe(Section):
    """A whole experiment.

    Raises:
        RecipeError: from the functions of this package, with every problem in one report.
    """

    name: Name
    """Name of the run directory."""
    data: AnyData
    model: AnyModel
    teacher: Teacher | None = None
    """A finished run that this model learns from as well; None: it learns from labels alone."""
    stages: dict[Name, Stage] = Field(min_length=1)
    """In the order in which they run."""
    run: RunSettings = RunSettings()
    card: Card = Card()

    # For each fact the values of the recipe that it was given in, and the facts that overrides gave. Kept by copies, not by YAML.
    _about: dict[str, Mapping[str, Any]] = PrivateAttr(default_factory=dict)
    _given: frozenset[str] = PrivateAttr(default=frozenset())

    def model_post_init(self, context: Any) -> None:
        self._about = dict.fromkeys(self._facts(), self._subject())

    def __eq__(self, other: object) -> bool:
        """Two recipes are equal that say the same, wherever they have it from."""
        return isinstance(other, Recipe) and self.__dict__ == other.__dict__

    @property
    def given(self) -> frozenset[str]:
        """The facts, and "name", that were given by `override` rather than by the script."""
        return self._given

    def _facts(self) -> list[str]:
        return ["name", *(fact for fact, value in self.card if value not in (None, ()))]

    def _subject(self) -> dict[str, Any]:
        """What a fact that is given now is about: the values of the keys in `ABOUT`, and the ids it goes by."""
        values: dict[str, Any] = dict(leaves(self.model_dump(mode="json", exclude={"stages", "run"})))
        values["stages"] = {name: stage.unfreeze for name, stage in self.stages.items()}
        for claim, key in (("card.dataset", "data.source"), ("card.base_model", "model.checkpoint")):
            then = self._about.get(claim.removeprefix("card."), values)
            if then.get(key) != values.get(key):
                values[claim] = None  # of the former one
        return values

    def lapsed(self, fingerprint: Mapping[str, str] | None = None) -> dict[str, dict[str, tuple[Any, Any]]]:
        """The facts that are not about what the recipe names now -> each key that has changed since: (then, now).

        A copy of the data set counts as that data set where `fingerprint`, of what was read, is the one on the card, or where an
        override claims it by `card.dataset`; another checkpoint as the same model where one claims it by `card.base_model`.
        """
        now, known = self._subject(), self.card.dataset_fingerprint

        def same_name(then: Mapping[str, Any], key: str, claim: str) -> bool:
            return bool({then.get(key), then[claim]} & {now.get(key), now[claim]} - {None})

        lapsed: dict[str, dict[str, tuple[Any, Any]]] = {}
        for fact, then in self._about.items():
            same: tuple[str, ...] = ()
            recognised = (
                known is not None
                and fingerprint is not None
                and then["data.source"] == self._about.get("dataset_fingerprint", now)["data.source"]
                and same_content(known, fingerprint)
            )
            claimed = then["data.source"] != now["data.source"] and same_name(then, "data.source", "card.dataset")
            if claimed or recognised:
                same += (*READ, "data.revision")
            if same_name(then, "model.checkpoint", "card.base_model"):
                same += ("model.checkpoint",)
            changed = [key for key in ABOUT[fact] if key not in same and not is_same(key, now.get(key), then.get(key))]
            # A place that is published under its name alone stays what it was.
            changed = [key for key in changed if now.get(key) != f"{LOCAL}{local_name(str(then.get(key)))}"]
            if changed:
                lapsed[fact] = {key: (then.get(key), now.get(key)) for key in changed}
        return lapsed

    @model_validator(mode="after")
    def _model_fits_data(self) -> Self:
        if self.data.kind not in self.model.reads:
            what = f'model.family "{self.model.family}" does not read data of kind "{self.data.kind}"'
            raise ValueError(f"{what}; pictures go with timm, transformer and cnn")
        if isinstance(self.data, TextData) and self.data.windows is not None and not isinstance(self.model, Transformer):
            way_out = f"write data.windows=null; data.max_length={self.data.max_length} stays"
            raise ValueError(f"data.windows: a {self.model.family} reads a text of any length at once: {way_out}")
        if isinstance(self.model, Transformer) and self.model.pooling != "native" and self.data.kind == "image":
            raise ValueError("model.pooling: says what is read of a text's tokens; of pictures leave it out")
        return self

    @model_validator(mode="after")
    def _bands_are_read(self) -> Self:
        if not isinstance(self.data, ImageData) or self.data.bands is None:
            return self
        if not self.in_timms_format:
            own = f"model.pooling={self.model.pooling}" if isinstance(self.model, Timm) else f'model.family "{self.model.family}"'
            raise ValueError(
                f"data.bands: {own} reads pictures of RGB alone; write model.family=timm, without a pooling of its own"
            )
        assert isinstance(self.model, Timm)
        if self.model.in_chans is not None:
            raise ValueError("model.in_chans: the first layer has as many channels as data.bands says; leave it out")
        if self.run.tta != "none":
            raise ValueError("run.tta: views are made of pictures of RGB, and data.bands are none; leave it out")
        return self

    @model_validator(mode="after")
    def _views_are_of_an_augmentation(self) -> Self:
        if isinstance(self.data, ImageData) and self.data.augmentation_views and self.data.augmentation == "none":
            raise ValueError("data.augmentation_views: without data.augmentation there is one view of a picture; leave it out")
        return self

    @model_validator(mode="after")
    def _tools_of_pictures_are_for_pictures(self) -> Self:
        for name, stage in self.stages.items():
            if stage.mix is not None and not isinstance(self.data, ImageData):
                raise ValueError(
                    f"stages.{name}.mix: mixes the pixels of two pictures, and texts have none; leave it out. What keeps a model of"
                    " texts from being too sure is label smoothing: loss={kind: cross_entropy, label_smoothing: 0.1}"
                )
            if stage.image_size is not None and not isinstance(self.data, ImageData):
                raise ValueError(
                    f"stages.{name}.image_size: texts have no pixels; leave it out. How long they are is data.max_length"
                )
        return self

    @model_validator(mode="after")
    def _teacher_answers_what_is_trained_on(self) -> Self:
        for name, stage in self.stages.items() if self.teacher is not None else ():
            if stage.mix is not None:
                raise ValueError(
                    f"stages.{name}.mix: the teacher answers each picture as it is, and no mixture of two; leave out one of both"
                )
            if stage.sampling is not None and self.learns_unlabelled:
                raise ValueError(
                    f"stages.{name}.sampling: draws rows by their class, and those of data.unlabelled have none; leave out"
                    " one of both, or write class_weights"
                )
        return self

    @model_validator(mode="after")
    def _batches_are_of_its_kind(self) -> Self:
        pictures = isinstance(self.data, ImageData)
        if not pictures and self.run.tta != "none":
            raise ValueError("run.tta: views are flips and crops of pictures, and a text has none; leave it out")
        if pictures and self.run.tokens_per_batch is not None:
            raise ValueError(
                "run.tokens_per_batch: pictures have no tokens; leave it out. What a process computes at once is set by"
                " run.gradient_accumulation, and in evaluation by run.evaluation_batch_size"
            )
        if not pictures and self.run.evaluation_batch_size is not None:
            raise ValueError(
                "run.evaluation_batch_size: evaluation batches of texts are filled by tokens; leave it out, or set"
                " run.tokens_per_batch"
            )
        return self

    @model_validator(mode="after")
    def _layers_can_be_computed_again(self) -> Self:
        if self.run.gradient_checkpointing and isinstance(self.model, WordVectors):
            what = f'model.family "{self.model.family}" has no layers that keep much'
            raise ValueError(f"run.gradient_checkpointing: {what}; leave it out, or set run.gradient_accumulation")
        if self.run.gradient_checkpointing and self.run.compile:
            raise ValueError("run.gradient_checkpointing: compiled layers (run.compile) keep what they need; use one of both")
        return self

    @model_validator(mode="after")
    def _adapters_have_a_place(self) -> Self:
        for name, stage in self.stages.items():
            if stage.lora is not None and isinstance(self.model, WordVectors | CNN):
                what = (
                    f'adapters are for layers that were pretrained, and model.family "{self.model.family}" has none; leave them out'
                )
                raise ValueError(f"stages.{name}.lora: {what}, or take a transformer or a timm model")
            if stage.lora is not None and self.run.compile:
                raise ValueError(f"stages.{name}.lora: layers with adapters are not compiled; leave run.compile out")
        return self

    @model_validator(mode="after")
    def _can_be_written(self) -> Self:
        for key, value in leaves(self.model_dump(mode="json")):
            try:
                json.dumps([key, value], ensure_ascii=False).encode("utf-8")
            except UnicodeEncodeError:  # the command line passes bytes that are not UTF-8 on as half characters
                raise ValueError(f"{ascii(key)[1:-1]} contains {value!a}, which has characters that UTF-8 cannot encode") from None
        return self

    @classmethod
    def _title(cls, values: Mapping[str, Any]) -> str:
        name = values.get("name")
        return f'recipe "{name}"' if isinstance(name, str) else "recipe"

    @property
    def opens_test(self) -> bool:
        """Whether training opens the test split at its end; otherwise `hftl test` does, once."""
        return self.run.test == "open" and self.data.test_split != "none"

    @property
    def learns_unlabelled(self) -> bool:
        """Whether training reads `data.unlabelled`: by the answers of a teacher."""
        return self.teacher is not None and isinstance(self.data, TextData) and self.data.unlabelled is not None

    @property
    def in_timms_format(self) -> bool:
        """Whether its model is saved as timm has it; all others are as transformers has them."""
        return isinstance(self.model, Timm) and self.model.pooling == "native"

    @property
    def dropped(self) -> str:
        """The dropout of the model in words, where it is not that of its family or checkpoint; otherwise empty."""
        given = self.model.model_dump(exclude_defaults=True, include={"dropout", "head_dropout", "drop_path", "word_dropout"})
        return ", ".join(f"{name} {rate:g}" for name, rate in given.items())

    def to_yaml(self) -> str:
        """The recipe as YAML; `load_recipe` reads it back equal, but for facts that are about something else (`lapsed`)."""
        values = self.model_dump(mode="json")
        values["card"] |= {fact: Card.model_fields[fact].default for fact in self.lapsed() if fact != "name"}
        return write_yaml(values)

    def to_brief_yaml(self) -> str:
        """The recipe as somebody writes it: what differs from the defaults, and the kind, rate and epochs that one looks for."""
        values = self.model_dump(mode="json", exclude_defaults=True)
        values["data"] = {"kind": self.data.kind, **values["data"]}
        values["model"] = {"family": self.model.family, **values["model"]}
        for name, stage in self.stages.items():
            brief, whole = values["stages"][name], stage.model_dump(mode="json")
            values["stages"][name] = {key: whole[key] for key in ("unfreeze", "lr", "epochs")} | brief
            if "schedule" in brief:
                values["stages"][name]["schedule"] = {"kind": whole["schedule"]["kind"], **brief["schedule"]}
        return write_yaml(values)


def flat(recipe: Recipe) -> list[tuple[str, Any]]:
    """Each dotted key of a recipe with its value, as JSON has it."""
    return list(leaves(recipe.model_dump(mode="json")))


def secrets_beside(recipe: Recipe) -> dict[str, str]:
    """Value -> a name for it, of the secrets of the environment that the recipe's own names are not taken for.

    With SOME_API_KEY=stanfordnlp/imdb the `data.source` of that name is a name. What looks random is a secret wherever it stands.
    """
    names = [str(value) for key, value in flat(recipe) if key not in PROSE]
    return {
        value: variable
        for value, variable in environment_secrets().items()
        if is_random(value) or not any(value in name for name in names)
    }


def refuse_secrets(recipe: Recipe) -> None:
    """Refuse a recipe that may not be written into a run, nor sent.

    Raises:
        RecipeError: it holds secrets; they are named, and not shown.
    """
    known = secrets_beside(recipe)
    places = {f"{key} holds {kind}": None for key, value in flat(recipe) for _, kind in find_secrets(str(value), known=known)}
    if places:
        help = ("a recipe is written into runs and published. Tokens belong into HF_TOKEN",)
        raise RecipeError("recipe", [Problem("recipe", what, help) for what in places])


def carry_facts(before: Recipe, after: Recipe, *, given: Set[str]) -> None:
    """Let the facts of a changed recipe be about what they were about before; those in `given` are about the changed one."""
    after._given = before.given | given
    unchanged = {fact: then for fact, then in before._about.items() if fact in after._about and fact not in given}
    after._about = unchanged
    after._about = unchanged | dict.fromkeys([fact for fact in after._facts() if fact not in unchanged], after._subject())


def same_content(known: Mapping[Any, str], read: Mapping[str, str]) -> bool:
    """Whether the splits that were read are those of a data set's fingerprint; `known` may have more of them."""
    return "train" in read and all(known.get(split) == digest for split, digest in read.items())


def of_another(recipe: Recipe, author: str) -> Recipe:
    """A recipe whose model somebody else has trained: what they say of that model is not about one's own."""
    theirs = Recipe(**recipe.model_dump(mode="json"))
    theirs._about = {fact: {**then, AUTHOR: author} for fact, then in theirs._about.items()}
    return theirs


def judged(recipe: Recipe, metric: Chooser) -> Recipe:
    """The same recipe with a metric that picks the weights, where it leaves that to the data."""
    if recipe.run.metric != "auto":
        return recipe
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"metric": metric})})


def moved(recipe: Recipe, to: Mapping[str, str]) -> Recipe:
    """The same recipe where the same rows lie in other places: the facts about them still are."""

    def at(value: Any) -> Any:
        return to.get(value, value)

    extra = tuple(each.model_copy(update={"source": at(each.source)}) for each in recipe.data.extra)
    data = recipe.data.model_copy(update={"source": at(recipe.data.source), "extra": extra})
    recipe_there = recipe.model_copy(update={"data": data})

    def there(then: Mapping[str, Any]) -> Mapping[str, Any]:
        of_extra = [{**each, "source": at(each["source"])} for each in then.get(EXTRA, ())]
        return {**then, "data.source": at(then.get("data.source")), EXTRA: of_extra}

    recipe_there._about = {fact: there(then) for fact, then in recipe._about.items()}
    return recipe_there


def difference(before: Recipe, after: Recipe) -> list[str]:
    """The dotted keys whose values differ, as lines ``key: old -> new``.

    What only one of them can have, as a stage or a key of its family, is named where its value is not the default.
    """
    old, new = dict(flat(before)), dict(flat(after))
    chosen = {key for recipe in (before, after) for key, _ in leaves(recipe.model_dump(mode="json", exclude_defaults=True))}
    missing = "(absent)"
    order = [", ".join(recipe.stages) for recipe in (before, after)]
    moved = [f"stages: {order[0]} -> {order[1]}"] if order[0] != order[1] else []
    return moved + [
        f"{key}: {old.get(key, missing)} -> {new.get(key, missing)}"
        for key in {**old, **new}
        if old.get(key, missing) != new.get(key, missing) and (key in chosen or (key in old and key in new))
    ]
