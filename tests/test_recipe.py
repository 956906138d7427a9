from __future__ import annotations

import re
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hftl
from hftl.errors import RecipeError
from hftl.recipe import (
    EMA,
    SGD,
    AdamW,
    Average,
    BiLSTM,
    CosineSchedule,
    CrossEntropyLoss,
    FocalLoss,
    ImageData,
    LinearSchedule,
    Lion,
    Loss,
    OneCycleSchedule,
    Optimizer,
    Recipe,
    RunSettings,
    Schedule,
    Stage,
    StepSchedule,
    TextCNN,
    TextData,
    Timm,
    Transformer,
    difference,
    load_recipe,
    override,
    parse_recipe,
)


def small(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "small",
        "data": TextData(source="reviews/"),
        "model": Transformer(checkpoint="bert"),
        "stages": {"head": Stage(unfreeze="head", lr=1e-3), "all": Stage(lr=3e-5)},
    }
    return Recipe(**{**values, **changes})


def test_a_recipe_reads_back_equal_from_its_own_yaml() -> None:
    recipes = [
        small(),
        small(model=TextCNN(vectors="glove.txt", kernel_widths=(2, 3))),
        small(model=BiLSTM(vectors="glove.txt", pooling="max")),
        small(data=ImageData(source="photos", augmentation={"transform": {"p": 0.5}}), model=Timm(checkpoint="timm/resnet18")),
        small(stages={"one": Stage(lr=0.1, unfreeze=("layer4", "head"), class_weights={"a": 1.0, "b": 2.5})}),
    ]
    for recipe in recipes:
        assert parse_recipe(recipe.to_yaml(), source="x") == recipe


@settings(deadline=None)
@given(
    lr=st.floats(min_value=1e-9, max_value=10, allow_nan=False),
    seed=st.integers(min_value=0, max_value=2**31),
    length=st.integers(min_value=1, max_value=10_000),
    source=st.text(min_size=1, max_size=40).filter(lambda text: text.strip() != ""),
)
def test_any_legal_values_survive_yaml(lr: float, seed: int, length: int, source: str) -> None:
    recipe = small(data=TextData(source=source, max_length=length), stages={"all": Stage(lr=lr)}, run=RunSettings(seed=seed))
    assert parse_recipe(recipe.to_yaml(), source="x") == recipe


def test_an_override_changes_one_value_and_no_other() -> None:
    changed = override(small(), ["stages.all.lr=2e-5"])
    assert changed.stages["all"].lr == 2e-5
    assert difference(small(), changed) == ["stages.all.lr: 3e-05 -> 2e-05"]


@pytest.mark.parametrize(
    "assignment",
    [
        "data.source=photos/",
        "data.max_length=64",
        "data.validation_fraction=0.2",
        "data.max_train_samples=100",
        "model.checkpoint=elsewhere",
        "run.seed=7",
        "run.precision=fp32",
        "run.batch_size=8",
        "stages.all.epochs=3",
        "stages.all.lr=1e-4",
        "stages.all.layer_decay=0.5",
        "stages.all.head_lr_multiplier=10",
        "stages.all.unfreeze=[layer.1, head]",
        "data.revision=1234567",
    ],
)
def test_the_keys_of_the_contract_exist(assignment: str) -> None:
    assert override(small(), [assignment]) != small()


def test_a_text_with_a_colon_is_a_text() -> None:
    assert override(small(), ["card.title=ResNet-18: clothing"]).card.title == "ResNet-18: clothing"


def test_vectors_are_a_key_of_the_glove_families() -> None:
    recipe = override(small(model=TextCNN(vectors="a.txt")), ["model.vectors=b.txt"])
    assert isinstance(recipe.model, TextCNN) and recipe.model.vectors == "b.txt"


def test_another_family_takes_the_place_of_the_section_but_for_what_it_has_too() -> None:
    network = override(small(), ["model.family=textcnn", "model.vectors=v.txt"]).model
    assert isinstance(network, TextCNN) and network == TextCNN(vectors="v.txt")  # and no dropout of None, which nobody wrote
    written = small(model=TextCNN(vectors="v.txt", max_words=500, channels=8))
    assert override(written, ["model.family=bilstm"]).model == BiLSTM(vectors="v.txt", max_words=500)
    assert override(written, ["model.family=textcnn"]).model == written.model
    pictures = override(small(), ["data.kind=image", "model.family=timm", "data.image_size=32"])
    assert pictures.data == ImageData(source="reviews/", image_size=32) and pictures.model == Timm(checkpoint="bert")
    with pytest.raises(RecipeError, match=r"1 problem in .*\n  model.vectors: missing"):
        override(small(), ["model.family=textcnn"])


def test_a_space_at_the_end_of_a_value_is_a_part_of_it() -> None:
    data = override(small(), ["data.text_column=text ", "data.max_length= 64", "data.revision= "]).data
    assert isinstance(data, TextData) and (data.text_column, data.max_length, data.revision) == ("text ", 64, None)


def test_every_mistake_is_in_one_report_with_the_nearest_guess() -> None:
    with pytest.raises(RecipeError) as caught:
        override(
            small(), ["data.max_lenght=3", "stages.all.lr=0", "run.precision=fp17", "data.max_length=many"], source="recipes/x.py"
        )
    message = str(caught.value)
    assert message.startswith("4 problems in recipes/x.py")
    assert 'data.max_lenght: unknown key "max_lenght". Did you mean "max_length"?' in message
    assert "stages.all.lr: 0.0 does not freeze a group; leave the group out of `unfreeze` instead." in message
    assert "run.precision: input should be 'auto', 'fp32', 'bf16' or 'fp16'; found 'fp17'" in message
    assert "data.max_length: input should be a valid integer" in message


def test_a_wrong_key_and_a_wrong_value_are_in_the_same_report() -> None:
    with pytest.raises(RecipeError, match="2 problems"):
        override(small(), ["stages.al.epochs=2", "stages.all.lr=0"])


@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("stages.al.lr=1", 'no stage "al". Did you mean "all"?'),
        ("dta.source=x", 'no section "dta". Did you mean "data"?'),
        ("lr", "an override is written key=value"),
        ("stages.all.lr.x=1", "stages.all.lr.x: lr is a value, and has no keys of its own"),
        ("model.family=resnet", "allowed: transformer, timm, cnn, textcnn, bilstm"),
        ("name=../escape", "name: "),
        ("stages.all.lr=-1", "a learning rate is greater than 0"),
        ("stages.all.lr=nan", "stages.all.lr: input should be a finite number"),
        ("stages.all.epochs=0", "stages.all.epochs: input should be greater than or equal to 1"),
        ("stages.all.layer_decay=1.5", "stages.all.layer_decay: input should be less than or equal to 1"),
        ("data.source=", "data.source: input should be a valid string"),
    ],
)
def test_a_wrong_override_says_what_is_allowed(assignment: str, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        override(small(), [assignment])
    assert expected in str(caught.value)


def test_views_without_an_augmentation_are_refused() -> None:
    pictures: dict[str, Any] = {"source": "photos", "augmentation_views": 4}
    with pytest.raises(RecipeError, match=r"data.augmentation_views: without data.augmentation there is one view"):
        small(model=Timm(checkpoint="timm/resnet18"), data=ImageData(**pictures))
    small(model=Timm(checkpoint="timm/resnet18"), data=ImageData(**pictures, augmentation="light"))


def test_a_batch_size_of_the_other_kind_of_data_is_refused_and_not_ignored() -> None:
    pictures: dict[str, Any] = {"model": Timm(checkpoint="timm/resnet18"), "data": ImageData(source="photos")}
    with pytest.raises(RecipeError, match=r"run.tokens_per_batch: pictures have no tokens; leave it out"):
        small(**pictures, run=RunSettings(tokens_per_batch=4096))
    with pytest.raises(RecipeError, match=r"run.evaluation_batch_size: evaluation batches of texts are filled by tokens"):
        small(run=RunSettings(evaluation_batch_size=8))
    small(**pictures, run=RunSettings(evaluation_batch_size=8))
    small(run=RunSettings(tokens_per_batch=4096))


# --- a word or a section ------------------------------------------------------------------------------------------------------


def test_a_word_is_its_section_with_defaults() -> None:
    stage = Stage(lr=1, optimizer="sgd", schedule="step", loss="focal")
    assert stage == Stage(lr=1, optimizer=SGD(), schedule=StepSchedule(), loss=FocalLoss())
    assert stage == Stage(lr=1, optimizer=SGD(momentum=0.9), schedule=StepSchedule(every=1, gamma=0.1), loss=FocalLoss(gamma=2))
    assert Stage(lr=1) == Stage(lr=1, optimizer=AdamW(), schedule=LinearSchedule(), loss=CrossEntropyLoss())


@pytest.mark.parametrize("union", [Optimizer, Schedule, Loss, Average], ids=["optimizer", "schedule", "loss", "average"])
def test_every_kind_is_reached_by_its_word_and_is_exported(union: Any) -> None:
    assert len(typing.get_args(union)) >= 2
    for section in typing.get_args(union):
        key, word = section.key, section().kind
        stage = Stage(**{"lr": 1, "epochs": 4, key: word})
        assert getattr(stage, key) == section()
        assert parse_recipe(small(stages={"a": stage}).to_yaml(), source="x").stages["a"] == stage
        assert getattr(hftl, section.__name__) is section


def test_a_section_of_a_yaml_file_is_a_word_or_a_mapping() -> None:
    rest = "name: x\ndata: {kind: text, source: x}\nmodel: {family: transformer, checkpoint: x}\n"
    text = f"{rest}stages:\n  a: {{lr: 1, schedule: cosine, optimizer: {{kind: sgd, momentum: 0.5}}}}"
    stage = parse_recipe(text, source="x").stages["a"]
    assert stage == Stage(lr=1, schedule=CosineSchedule(), optimizer=SGD(momentum=0.5))


def test_a_dotted_key_changes_one_option_and_a_word_replaces_the_section() -> None:
    recipe = small(stages={"all": Stage(lr=1, schedule=StepSchedule(every=2, gamma=0.5, warmup=0.1))})

    def schedule(*assignments: str) -> Any:
        return override(recipe, assignments).stages["all"].schedule

    assert schedule("stages.all.schedule.every=3") == StepSchedule(every=3, gamma=0.5, warmup=0.1)
    assert schedule("stages.all.schedule=cosine") == CosineSchedule()
    assert schedule("stages.all.schedule={kind: step, every: 4}") == StepSchedule(every=4)
    assert schedule("stages.all.schedule=cosine", "stages.all.schedule.warmup=0.2") == CosineSchedule(warmup=0.2)
    assert override(small(), ["stages.all.schedule.warmup=0.2"]).stages["all"].schedule == LinearSchedule(warmup=0.2)
    written = override(recipe, ["stages.new={lr: 1, optimizer: lion}", "stages.new.optimizer.betas=[0.8, 0.9]"])
    assert written.stages["new"].optimizer == Lion(betas=(0.8, 0.9))
    # Only what was given has to fit the new kind: linear's own warmup of 0 is no option of one_cycle, and nobody gave it.
    assert override(small(), ["stages.all.schedule.kind=one_cycle"]).stages["all"].schedule == OneCycleSchedule()
    with pytest.raises(RecipeError, match=r'stages.all.schedule.every: unknown key "every"'):
        schedule("stages.all.schedule.kind=cosine")


def test_what_one_recipe_alone_can_have_is_a_difference_where_it_is_no_default() -> None:
    changed = override(small(), ["stages.all.schedule={kind: step, every: 3}"])
    assert difference(small(), changed) == [
        "stages.all.schedule.kind: linear -> step",
        "stages.all.schedule.every: (absent) -> 3",
    ]
    assert difference(changed, small())[1] == "stages.all.schedule.every: 3 -> (absent)"
    more = override(small(), ["stages.more={lr: 1e-3, epochs: 2}"])
    order = ", ".join(small().stages)
    assert difference(small(), more) == [
        f"stages: {order} -> {order}, more",
        "stages.more.lr: (absent) -> 0.001",
        "stages.more.epochs: (absent) -> 2",
    ]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"schedule": "linear", "gamma": 0.5}, "gamma is an option of schedule step, exponential: hftl.StepSchedule(gamma=...)"),
        (
            {"loss": "focal", "gamma": 0.5},
            "gamma is an option of loss focal: hftl.FocalLoss(gamma=...), in YAML {kind: focal, gamma: ...}",
        ),
        ({"momentum": 0.5}, "momentum is an option of optimizer sgd, rmsprop, muon: hftl.SGD(momentum=...)"),
        ({"warmup": 0.1}, "hftl.LinearSchedule(warmup=...), in YAML {kind: linear, warmup: ...}"),
        (
            {"label_smoothing": 0.1},
            "label_smoothing is an option of loss cross_entropy: hftl.CrossEntropyLoss(label_smoothing=...)",
        ),
        ({"schedule": {"kind": "one_cycle", "warmup": 0.1}}, 'schedule.warmup: unknown key "warmup".'),
        ({"schedule": {"kind": "slanted_triangular", "warmup": 0.1}}, 'schedule.warmup: unknown key "warmup".'),
        ({"loss": {"kind": "focal", "label_smoothing": 0.1}}, "label_smoothing is an option of loss cross_entropy"),
        ({"optimizer": {"kind": "adamw", "momentum": 0.9}}, "momentum is an option of optimizer sgd, rmsprop, muon"),
        (
            {"optimizer": {"kind": "sgd", "momentum": 0, "nesterov": True}},
            "optimizer: nesterov is a way to use momentum, which is 0",
        ),
        (
            {"schedule": {"kind": "wsd", "warmup": 0.5, "decay": 0.6}},
            "schedule: warmup 0.5 and decay 0.6 are more than the whole stage",
        ),
        ({"schedule": {"kind": "inverse_sqrt", "warmup": 0}}, "schedule.warmup: input should be greater than 0"),
        ({"schedule": {"kind": "plateau", "factor": 1}}, "schedule.factor: input should be less than 1"),
        (
            {"schedule": "plateau", "epochs": 2},
            "schedule plateau: rates fall after 2 epochs at the soonest, and the stage has 2; give it 3 or more",
        ),
        ({"schedule": "plateau"}, "schedule plateau: rates fall after 2 epochs at the soonest, and the stage has 1; give it 3"),
        ({"optimizer": {"kind": "sgd", "momentun": 0.1}}, 'optimizer.momentun: unknown key "momentun". Did you mean "momentum"?'),
        ({"optimizer": {"kind": "adamw", "betas": [0.9, 1.0]}}, "optimizer.betas.1: input should be less than 1"),
        ({"schedule": "cosin"}, 'schedule: no schedule "cosin". Did you mean "cosine"?'),
        ({"optimizer": "adamww"}, 'optimizer: no optimizer "adamww". Did you mean "adamw"?'),
        ({"optimizer": FocalLoss()}, 'optimizer: no optimizer "focal".'),
        ({"schedule": {"every": 2}}, "schedule.kind: missing"),
        ({"schedule": {"kind": None}}, "schedule.kind: missing"),
        ({"optimizer": "AdamW"}, 'optimizer: no optimizer "AdamW". Did you mean "adamw"?'),
        ({"optimizer": {"kind": "sgd", 1: 2}}, 'optimizer.1: unknown key "1".'),
        ({"schedule": 3}, "schedule: a word, or a section with a kind; found 3"),
        ({"loss": None}, "loss: a word, or a section with a kind; found None"),
        ({"average": "emma"}, 'average: no average "emma". Did you mean "ema"?'),
        ({"average": 3}, "average: a word, or a section with a kind; found 3"),
        ({"average": {"share": 0.5}}, "average.kind: missing"),
        ({"average": {"kind": "ema", "decay": 1}}, "average.decay: input should be less than 1"),
        (
            {"average": "ema", "share": 0.5},
            "share is an option of average swa: hftl.SWA(share=...), in YAML {kind: swa, share: ...}",
        ),
        (
            {"average": "swa"},
            "average swa: the last 0.5 of the epochs is epoch 1 alone, and a mean needs two; give the stage more epochs",
        ),
        (
            {"average": "soup"},
            "average soup: the stage has one epoch, and a mean needs two; give it more epochs, or leave the soup out",
        ),
        ({"average": {"kind": "soup", "most": 1}, "epochs": 4}, "average.most: input should be greater than or equal to 2"),
        ({"average": {"kind": "swa", "share": 0.25}, "epochs": 4}, "the last 0.25 of the epochs is epoch 4 alone"),
    ],
    ids=str,
)
def test_an_option_that_does_not_apply_is_refused_with_the_place_where_it_does(values: dict[str, Any], expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        Stage(**{"lr": 1, **values})
    assert expected in str(caught.value) and str(caught.value).startswith("1 problem in hftl.Stage(...)")


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        (
            "stages.all.loss=cosine",
            'no loss "cosine".\n      "cosine" is a word of stages.all.schedule\n      allowed: cross_entropy',
        ),
        ("stages.all.schedule=focal", '"focal" is a word of stages.all.loss'),
        (
            "stages.all.sampling=effective",
            "or 'sqrt'; found 'effective'\n      \"effective\" is a word of stages.all.class_weights",
        ),
        ("stages.all.mix=randaugment", '"randaugment" is a word of data.augmentation'),
        ("model.pooling=pyramid", '"pyramid" is a word of model.pooling, where model.family is timm'),
        ("run.metric=r_drop", "or 'auto'; found 'r_drop'\n      \"r_drop\" is a word of stages.NAME.loss"),
        ("run.precision=int8", "or 'fp16'; found 'int8'\n"),  # no key has it
        ("stages.all.loss=none", 'no loss "none".\n      allowed'),  # many have it
        ("run.metric=macro-f1", '. Did you mean "macro_f1"?'),
    ],
)
def test_a_word_of_another_key_or_family_is_refused_with_the_place_that_takes_it(assignment: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        override(small(), [assignment])
    assert said in f"{error.value}\n"


def test_an_option_of_another_kind_is_refused_by_the_section_itself() -> None:
    wrong: dict[str, Any] = {"gamma": 0.5}
    with pytest.raises(RecipeError, match=r"gamma is an option of schedule step, exponential: hftl.StepSchedule\(gamma"):
        LinearSchedule(**wrong)


@pytest.mark.parametrize("union", [Optimizer, Schedule, Loss, Average], ids=["optimizer", "schedule", "loss", "average"])
def test_the_page_on_stages_has_every_kind_with_its_options(union: Any) -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "stages.md").read_text(encoding="utf-8")
    rows = {
        cells[1].strip(): set(re.findall(r"`(\w+)`", cells[3])) for line in page.splitlines() if len(cells := line.split("|")) > 4
    }
    for section in typing.get_args(union):
        assert rows[f"`{section().kind}`"] == set(section.model_fields) - {"kind"}


def test_the_schema_for_editors_knows_words_and_sections() -> None:
    (words, sections) = Stage.model_json_schema()["properties"]["schedule"]["anyOf"]
    assert words["enum"] == [section().kind for section in typing.get_args(Schedule)]
    assert {"$ref": "#/$defs/StepSchedule"} in sections["oneOf"]
    (words, sections, nothing) = Stage.model_json_schema()["properties"]["average"]["anyOf"]
    assert words["enum"] == [section().kind for section in typing.get_args(Average)]
    assert {"$ref": "#/$defs/EMA"} in sections["oneOf"] and nothing == {"type": "null"}


def test_an_option_of_a_section_that_is_left_out_is_refused_with_the_way_to_it() -> None:
    given = override(small(), ["stages.all.average=ema", "stages.all.average.decay=0.9"]).stages["all"].average
    assert given == EMA(decay=0.9)
    assert override(small(stages={"all": Stage(lr=1, average="ema")}), ["stages.all.average=null"]).stages["all"].average is None
    with pytest.raises(
        RecipeError, match=r"stages.all.average.decay: the stage has no average of which this could be an option"
    ) as caught:
        override(small(), ["stages.all.average.decay=0.9"])
    assert "first: stages.all.average=..." in str(caught.value)


def test_pictures_and_texts_are_not_read_by_each_others_models() -> None:
    with pytest.raises(RecipeError, match=r'model.family "timm" does not read data of kind "text"'):
        small(model=Timm(checkpoint="timm/resnet18"))


def test_a_recipe_without_stages_is_refused() -> None:
    with pytest.raises(RecipeError, match="stages: dictionary should have at least 1 item"):
        small(stages={})


def test_a_recipe_is_read_from_a_script_a_yaml_file_and_a_run_directory(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(small().to_yaml())
    script = tmp_path / "script.py"
    script.write_text(
        "import pathlib\nimport hftl.recipe as h\n"
        f"text = pathlib.Path({str(tmp_path / 'recipe.yaml')!r}).read_text()\n"
        "recipe = h.parse_recipe(text, source='x')\n"
    )
    assert load_recipe(script) == load_recipe(tmp_path / "recipe.yaml") == load_recipe(tmp_path) == small()


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.yaml", "name: [", "YAML: "),
        ("a.yaml", "- 1\n- 2\n", "expected a mapping, found list"),
        (
            "a.yaml",
            "data: !!python/object/apply:os.system ['true']",
            "YAML: a recipe has no tags, such as tag:yaml.org,2002:python/object/apply:os.system",
        ),
        ("a.py", "recipe = ", "line 1: not valid Python"),
        ("a.py", "x = 1", "the script defines no `recipe = hftl.Recipe(...)`"),
        ("a.txt", "", '".txt" is not a kind of recipe'),
    ],
)
def test_a_file_that_is_no_recipe_is_one_clear_error(tmp_path: Path, name: str, content: str, expected: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(tmp_path / name)
    assert expected in str(caught.value)


LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 12))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1: 2", '  1: unknown key "1"'),
        ("null: 2", 'unknown key "null"'),
        ("? [a]\n: 2", "a key is a word, not a list or a mapping"),
        ("data: {1: 2, kind: text, source: x}", 'data.1: unknown key "1"'),
        ("data: {augmentation: {p: 1" + 4999 * "0" + "}}", "value has 5000 digits"),
        ("data: {augmentation: {p: 1" + 99 * "0" + "}}", "a number of more than 64 bits"),
        ("data: {augmentation: {p: 0x_}}", "YAML: invalid literal for int()"),
        ("data: {augmentation: {p: " + "59:" * 300 + "1.0}}", "YAML: int too large to convert to float"),
        ("name: !!bool maybe", "YAML: a recipe has no tags"),
        ('name: "\\ud800"', "YAML: 'utf-8' codec can't encode"),
        ("name: " + 60 * "[" + 60 * "]", "YAML: nested deeper than 50 levels"),
        (100_000 * "[", "YAML: nested deeper than 50 levels"),
        (100_000 * "- ", "YAML: nested deeper than 50 levels"),
        (100_000 * "? ", "YAML: nested deeper than 50 levels"),
        ("name: &name x", "YAML: a recipe has no anchors and aliases"),
        (LAUGHS, "YAML: a recipe has no anchors and aliases"),
        ("name: a\nname: b", 'YAML: the key "name" is there twice in "<unicode string>", line 2'),
        ("name: \0", "YAML: unacceptable character"),
        ("# " + 1_000_000 * "x", "larger than 1 MB"),
        (b"name: \xff", "byte 6: not UTF-8"),
    ],
    ids=lambda value: str(value)[:24],
)
def test_a_hostile_recipe_is_one_clear_error(tmp_path: Path, content: str | bytes, expected: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert expected in str(caught.value) and str(path) in str(caught.value)


def test_a_key_is_what_is_written() -> None:
    text = small().to_yaml().replace("class_weights: null", "class_weights: {no: 2.0, 0: 1.0, 2001-02-03: 3.0}", 1)
    assert parse_recipe(text, source="x").stages["head"].class_weights == {"no": 2.0, "0": 1.0, "2001-02-03": 3.0}


def test_a_recipe_is_written_without_anchors() -> None:
    once = {"transform": {"p": 0.5}}
    augmentation = {"first": once, "second": once, "both": [once, once]}
    recipe = small(data=ImageData(source="photos", augmentation=augmentation), model=Timm(checkpoint="timm/resnet18"))
    assert parse_recipe(recipe.to_yaml(), source="x") == recipe


def test_a_missing_recipe_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no such file"):
        load_recipe(tmp_path / "nothing.py")


# --- for people and editors ---------------------------------------------------------------------------------------------------


def test_help_and_editors_show_what_each_field_is() -> None:
    import pydoc

    shown = pydoc.plain(pydoc.render_doc(hftl.Stage))
    assert "layer_decay: Group i of n, input first, gets" in shown and "Annotated" not in shown.split("Methods")[0]
    assert "Stage(*,lr,unfreeze='all',epochs=1," in re.sub(r"[\s|]", "", shown)  # from Python 3.13 on a line for each
    assert hftl.Stage.model_fields["max_grad_norm"].description
    assert (
        hftl.Recipe.model_json_schema()["description"]
        == "A whole experiment.\n\nRaises:\n    RecipeError: from the functions of this package, with every problem in one report."
    )


def test_the_schema_has_every_section_and_a_yaml_may_name_it() -> None:
    schema = hftl.Recipe.model_json_schema()
    assert {"Stage", "TextData", "ImageData", "Timm", "RunSettings", "Card"} <= set(schema["$defs"])
    assert schema["$defs"]["Stage"]["properties"]["lr"]["description"].startswith("Learning rate")
    assert schema["required"] == ["name", "data", "model", "stages"] and schema["additionalProperties"] is False
    text = small_recipe_text()
    assert parse_recipe(f"# yaml-language-server: $schema=recipe.schema.json\n{text}", source="x") == parse_recipe(text, source="x")


def small_recipe_text() -> str:
    data, model = hftl.TextData(source="x"), hftl.Transformer(checkpoint="x")
    return hftl.Recipe(name="x", data=data, model=model, stages={"all": hftl.Stage(lr=0.1)}).to_yaml()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"windows": "mean"}}, "windows is an option where data.kind is text"),
        ({"model": {"family": "cnn", "reinitialize": 1}}, "reinitialize is an option where model.family is transformer or timm"),
        (
            {"model": {"family": "timm", "checkpoint": "x", "head_dropout": 0.1}},
            "head_dropout is an option where model.family is",
        ),
        ({"model": {"family": "timm", "checkpoint": "x", "pretraind": False}}, 'Did you mean "pretrained"?'),
    ],
)
def test_an_option_of_another_kind_or_family_is_refused_with_those_that_have_it(changes: dict[str, Any], said: str) -> None:
    values = {
        "name": "x",
        "data": {"kind": "image", "source": "x"} | changes.get("data", {}),
        "model": changes.get("model", {"family": "cnn"}),
        "stages": {"all": {"lr": 0.1}},
    }
    with pytest.raises(RecipeError) as refused:
        hftl.Recipe(**values)
    assert said in str(refused.value) and str(refused.value).count("is an option where") == ("is an option where" in said)
