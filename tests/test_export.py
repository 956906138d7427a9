"""ONNX: every family end to end on small models, at shapes that were not exported, and what is refused."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from odd_pictures import odd_pictures, read_differently
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DebertaV2Config,
    LongformerConfig,
    ModernBertConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from hftl.errors import RunError
from hftl.files import write_text
from hftl.inference import Predictor
from hftl.models import build_classifier, save_classifier, transformer
from hftl.models.family import Classifier
from hftl.recipe import BagOfEmbeddings, BiLSTM, ImageData, Recipe, Stage, TextCNN, TextData, Timm, Transformer
from hftl.run import RunDirectory
from hftl.sharing import export
from hftl.sharing.export import Export, export_onnx

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in export.LIBRARIES),
    reason='needs the extra "onnx": pip install "hftl[onnx]"',
)

LABELS = ("neg", "pos", "mixed")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "not", "very"]
SMALL: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
LONGEST = 24  # in tokens; RoBERTa counts positions from the padding id on, so 32 rows hold fewer than 32
TEXTS = ["a very good film", "bad", "not a good film not a bad film a film", "very very very bad"]


def make_recipe(data: Any, model: Any) -> Recipe:
    return Recipe(name="small", data=data, model=model, stages={"all": Stage(lr=1e-3)})


def write_run(path: Path, recipe: Recipe, classifier: Classifier) -> RunDirectory:
    """What export reads of a run: its recipe and its model."""
    run = RunDirectory(path)
    write_text(run.recipe, recipe.to_yaml())
    save_classifier(classifier, run.model)
    return run


def transformer_run(path: Path, config: PreTrainedConfig, *, scale: float = 30.0, segments: bool = False) -> RunDirectory:
    """A transformer with random weights; `scale` makes its weights large enough that the logits of two texts differ."""
    torch.manual_seed(0)
    config.id2label = dict(enumerate(LABELS))
    config.label2id = {label: i for i, label in enumerate(LABELS)}
    model = AutoModelForSequenceClassification.from_config(config)  # type: ignore[no-untyped-call]
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(scale)
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=LONGEST,
        model_input_names=["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"],
    )
    recipe = make_recipe(TextData(source="reviews", max_length=LONGEST), Transformer(checkpoint="small"))
    return write_run(path, recipe, Classifier(model, tokenizer, transformer.chain(model), {}))


def glove_run(path: Path, family: Any, **values: Any) -> RunDirectory:
    vectors = path.with_suffix(".txt")
    numbers = np.random.default_rng(0).normal(size=(len(WORDS), 4))
    vectors.write_text("".join(f"{word} {' '.join(f'{x:.3f}' for x in row)}\n" for word, row in zip(WORDS, numbers, strict=True)))
    recipe = make_recipe(TextData(source="reviews", max_length=LONGEST), family(vectors=str(vectors), min_count=1, **values))
    torch.manual_seed(0)
    return write_run(path, recipe, build_classifier(recipe, LABELS, texts=TEXTS))


def picture_run(path: Path, architecture: str) -> RunDirectory:
    recipe = make_recipe(ImageData(source="photos", image_size=32), Timm(checkpoint=architecture, pretrained=False))
    torch.manual_seed(0)
    return write_run(path, recipe, build_classifier(recipe, LABELS, texts=()))


def answers(file: Path, batch: dict[str, Any]) -> np.ndarray:
    """What a stranger's onnxruntime makes of the file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {name: np.asarray(values) for name, values in batch.items()})[0])


def saved_logits(folder: Path, batch: dict[str, Any], auto: Any = AutoModelForSequenceClassification) -> np.ndarray:
    model = auto.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return np.asarray(model(**{name: torch.as_tensor(np.asarray(values)) for name, values in batch.items()}).logits)


def serve(done: Export, run: RunDirectory, texts: list[str]) -> np.ndarray:
    """Logits of texts from the export alone, its tokenizer included, after they were found to be the saved model's."""
    tokenizer = AutoTokenizer.from_pretrained(done.file.parent)
    batch = dict(tokenizer(texts, padding=True, truncation=True, return_tensors="np"))
    found = answers(done.file, batch)
    np.testing.assert_allclose(found, saved_logits(run.model, batch), rtol=1e-4, atol=1e-5)
    return found


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDirectory, Export]:
    if any(importlib.util.find_spec(name) is None for name in export.LIBRARIES):
        pytest.skip('needs the extra "onnx": pip install "hftl[onnx]"')
    run = transformer_run(tmp_path_factory.mktemp("bert") / "run", BertConfig(**SMALL), segments=True)
    return run, export_onnx(run, run.path / "onnx")


# --- every family -------------------------------------------------------------------------------------------------------------


def test_a_bert_gives_the_same_logits_in_onnx_at_any_batch_and_length(bert: tuple[RunDirectory, Export]) -> None:
    run, done = bert
    assert done.file == run.path / "onnx" / "model.onnx"
    assert names(done.file.parent) == {"model.onnx", "config.json", "tokenizer.json", "tokenizer_config.json"}
    # Batches of 1, 3 and 8 texts of 1, 2, 7 and 24 tokens.
    assert done.batches == 12
    assert 0 <= done.largest_difference < 1e-4
    content = done.file.read_bytes()
    assert (done.size, done.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    logits = serve(done, run, TEXTS)  # 4 texts of 11 tokens, a shape that was neither exported nor compared
    assert logits.shape == (4, 3)
    assert np.ptp(logits, axis=0).min() > 1e-3  # the texts do differ
    np.testing.assert_allclose(serve(done, run, TEXTS[:1]), logits[:1], rtol=1e-4, atol=1e-5)


def test_the_inputs_are_what_the_tokenizer_gives_and_their_shapes_are_free(bert: tuple[RunDirectory, Export]) -> None:
    import onnx

    graph = onnx.load(bert[1].file).graph
    shapes = {value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in graph.input}
    assert shapes == {name: ["batch", "length"] for name in ("input_ids", "attention_mask", "token_type_ids")}
    [output] = graph.output
    assert [d.dim_param or d.dim_value for d in output.type.tensor_type.shape.dim] == ["batch", 3]


def test_the_file_names_no_place_on_the_machine_that_made_it(bert: tuple[RunDirectory, Export]) -> None:
    content = bert[1].file.read_bytes()
    assert b"LayerNormalization" in content
    for trace in (b".py", b"site-packages", b"stack_trace", str(Path.cwd()).encode(), str(bert[0].path).encode()):
        assert trace not in content


MODERNBERT: dict[str, Any] = {"cls_token_id": 2, "sep_token_id": 3, "local_attention": 8, "layer_types": ["sliding_attention"]}
DEBERTA: dict[str, Any] = {"relative_attention": True, "position_buckets": 4, "pos_att_type": ["p2c", "c2p"]}
# What differs from BERT: positions counted from the padding on, relative positions in buckets, a window of attention.
TRANSFORMERS: dict[str, PreTrainedConfig] = {
    "roberta": RobertaConfig(**SMALL),
    "deberta-v2": DebertaV2Config(**SMALL, **DEBERTA),
    "modernbert": ModernBertConfig(**SMALL, **MODERNBERT, bos_token_id=2, eos_token_id=3),
}


@needs_onnx
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_gives_the_same_logits_in_onnx(name: str, tmp_path: Path) -> None:
    run = transformer_run(tmp_path / "run", TRANSFORMERS[name])
    done = export_onnx(run, tmp_path / "onnx")
    assert np.ptp(serve(done, run, TEXTS), axis=0).min() > 1e-4


@needs_onnx
@pytest.mark.parametrize(
    ("family", "values"),
    [
        (BagOfEmbeddings, {"ngrams": 3, "buckets": 50}),
        (TextCNN, {"kernel_widths": (2, 9), "channels": 5, "trainable_dim": 3}),  # 9 words are more than most of the texts have
        (BiLSTM, {"hidden_size": 5, "layers": 2}),
        (BiLSTM, {"hidden_size": 5, "layers": 1, "pooling": "max", "trainable_dim": 3}),
    ],
    ids=["bag", "textcnn", "bilstm ends", "bilstm max"],
)
def test_a_glove_classifier_gives_the_same_logits_in_onnx(family: Any, values: dict[str, Any], tmp_path: Path) -> None:
    run = glove_run(tmp_path / "run", family, **values)
    done = export_onnx(run, tmp_path / "onnx")
    logits = serve(done, run, [*TEXTS, "film " * LONGEST])
    assert np.ptp(logits, axis=0).min() > 1e-4
    # Padding changes nothing, and a text without a word is one unknown word, alone and beside others.
    np.testing.assert_allclose(serve(done, run, ["bad"])[0], logits[1], rtol=1e-4, atol=1e-5)
    unknown = saved_logits(run.model, {"input_ids": [[1]], "attention_mask": [[1]]})
    nothing = np.empty((2, 0), dtype=np.int64)
    np.testing.assert_allclose(answers(done.file, {"input_ids": nothing, "attention_mask": nothing})[:1], unknown, atol=1e-5)
    np.testing.assert_allclose(serve(done, run, ["", "film"])[:1], unknown, atol=1e-5)


@needs_onnx
@pytest.mark.parametrize("architecture", ["test_resnet", "test_efficientnet"])  # a MobileNet is made of EfficientNet's parts
def test_a_timm_classifier_gives_the_same_logits_in_onnx(architecture: str, tmp_path: Path) -> None:
    run = picture_run(tmp_path / "run", architecture)
    done = export_onnx(run, tmp_path / "onnx")
    assert names(done.file.parent) == {"model.onnx", "config.json"}  # a timm model's preprocessing is in its config.json
    assert done.batches == 3
    pictures = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)) for i in range(5)]
    batch = dict(AutoImageProcessor.from_pretrained(done.file.parent)(pictures, return_tensors="pt"))  # type: ignore[no-untyped-call]
    assert batch["pixel_values"].shape == (5, 3, 32, 32)
    expected = saved_logits(run.model, batch, AutoModelForImageClassification)
    np.testing.assert_allclose(answers(done.file, batch), expected, rtol=1e-4, atol=1e-4)


# --- what is refused ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", export.LIBRARIES)
def test_a_missing_library_is_named_with_the_extra_before_anything_is_done(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)  # as Python itself marks what cannot be imported
    with pytest.raises(RunError, match=rf'{library}\): pip install "hftl\[onnx\]"'):
        export_onnx(RunDirectory(tmp_path / "no run at all"), tmp_path / "onnx")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(bert: tuple[RunDirectory, Export]) -> None:
    run, done = bert
    before = {path.name: path.read_bytes() for path in done.file.parent.iterdir()}
    with pytest.raises(RunError, match="nothing is written over"):
        export_onnx(run, done.file.parent)
    with pytest.raises(RunError, match="nothing is written over"):
        export_onnx(run, done.file)
    assert {path.name: path.read_bytes() for path in done.file.parent.iterdir()} == before


@needs_onnx
def test_a_folder_without_a_run_or_a_whole_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run here"):
        export_onnx(RunDirectory(tmp_path), tmp_path / "onnx")
    run = transformer_run(tmp_path / "run", BertConfig(**SMALL))
    (run.model / "tokenizer.json").rename(tmp_path / "tokenizer.json")
    with pytest.raises(RunError, match="has no tokenizer that can be read"):
        export_onnx(run, run.path / "onnx")
    (tmp_path / "tokenizer.json").rename(run.model / "tokenizer.json")
    weights = load_file(run.model / "model.safetensors")
    del weights["classifier.bias"]
    save_file(weights, run.model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match=r"classifier\.bias"):
        export_onnx(run, run.path / "onnx")
    (run.model / "model.safetensors").unlink()
    with pytest.raises(RunError, match=r"model\.safetensors"):
        export_onnx(run, run.path / "onnx")
    (run.model / "config.json").unlink()
    with pytest.raises(RunError, match="no model here"):
        export_onnx(run, run.path / "onnx")
    assert names(run.path) == {"recipe.yaml", "model"}


@needs_onnx
def test_a_model_that_torch_cannot_export_is_one_message(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = transformer_run(tmp_path / "run", LongformerConfig(**SMALL, attention_window=4))
    capfd.readouterr()
    with pytest.raises(
        RunError, match="torch cannot export LongformerForSequenceClassification to ONNX: Could not guard"
    ) as caught:
        export_onnx(run, run.path / "onnx")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert names(run.path) == {"recipe.yaml", "model"}


@needs_onnx
def test_an_export_whose_logits_differ_is_removed(tmp_path: Path) -> None:
    run = glove_run(tmp_path / "run", TextCNN, kernel_widths=(2,), channels=2)
    weights = load_file(run.model / "model.safetensors")
    weights["head.linear.bias"][1] = float("nan")  # equal to nothing
    save_file(weights, run.model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunError, match="a batch of 3 x 7, logit 1 of example 0 is nan where the saved model says nan"):
        export_onnx(run, run.path / "onnx")
    assert names(run.path) == {"recipe.yaml", "model"}


def test_the_comparison_finds_another_model_and_a_length_that_cannot_be_run(
    bert: tuple[RunDirectory, Export], tmp_path: Path
) -> None:
    file = bert[1].file
    model = AutoModelForSequenceClassification.from_pretrained(bert[0].model, dtype=torch.float32).eval()
    ids = torch.full((2, 5), 6)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    expected = export.saved_logits(model, batch)
    assert export.compare(file, [batch], [expected]) < 1e-5
    with torch.no_grad():
        model.classifier.bias[2] += 0.01
    other = export.saved_logits(model, batch)
    with pytest.raises(RunError, match="for a batch of 2 x 5, logit 2 of example 0 is"):
        export.compare(file, [batch, batch], [expected, other])
    too_long = {name: torch.ones(1, 33, dtype=torch.int64) for name in batch}  # there are 32 positions
    with pytest.raises(RunError, match=r"onnxruntime cannot run model\.onnx on a batch of 1 x 33: "):
        export.compare(file, [too_long], [expected])
    (tmp_path / "model.onnx").write_bytes(file.read_bytes()[:5000])
    with pytest.raises(RunError, match=r"onnxruntime cannot read model\.onnx: "):
        export.compare(tmp_path / "model.onnx", [batch], [expected])


def test_a_difference_counts_against_the_size_of_the_logit() -> None:
    def array(*values: float) -> Any:
        return np.array([values], dtype=np.float32)

    assert export.difference(array(0.5, 2.0), array(0.5, 2.0), "here") == 0.0
    assert export.difference(array(0.5, 200.015625), array(0.5, 200.0), "here") == 0.015625  # allowed: 1e-4 * 200 = 0.02
    for found, expected in [(2.0005, 2.0), (np.inf, np.inf), (np.nan, 2.0), (np.inf, 2.0), (2.0, np.inf), (np.nan, np.nan)]:
        with pytest.raises(RunError, match="for here, logit 1 of example 0"):
            export.difference(array(0.5, found), array(0.5, expected), "here")
    with pytest.raises(RunError, match=r"logits of shape \(1, 2\) for here, the saved model \(1, 3\)"):
        export.difference(array(1.0, 2.0), array(1.0, 2.0, 3.0), "here")


# --- the lines that `hftl export` prints --------------------------------------------------------------------------------------


def run_lines(lines: str, script: Path) -> list[tuple[str, str, float]]:
    """(input, class name, probability) that the printed lines print, run as they stand by another Python."""
    script.write_text(lines, encoding="utf-8")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        runpy.run_path(str(script))
    rows = [line.rsplit(" ", 2) for line in out.getvalue().splitlines()]
    return [(given, name, float(probability)) for given, name, probability in rows]


def same_as_predict(found: list[tuple[str, str, float]], run: RunDirectory, inputs: list[str]) -> None:
    expected = Predictor(run.path).predict(inputs)
    assert [row[:2] for row in found] == [(one.input, one.label) for one in expected]
    np.testing.assert_allclose([row[2] for row in found], [one.probability for one in expected], atol=2e-3)


@needs_onnx
@pytest.mark.parametrize("family", ["segments", "no segments", "textcnn"])
def test_the_printed_lines_for_texts_answer_as_predict_does(family: str, tmp_path: Path) -> None:
    if family == "textcnn":
        run = glove_run(tmp_path / "it's a \\run", TextCNN, channels=4)
    else:
        run = transformer_run(tmp_path / "it's a \\run", BertConfig(**SMALL), segments=family == "segments")
    done = export_onnx(run, run.path / "onnx")
    texts = ["a very good film", " ".join(40 * ["not", "bad"]), "very bad "]
    lines = export.usage(run.load_recipe(), done)
    example = 'texts = ["Put a text here.", "And another one there."]'
    assert example in lines and '["Put' in lines
    same_as_predict(run_lines(lines.replace(example, f"texts = {texts!r}"), tmp_path / "lines.py"), run, texts)
    alone = run_lines(lines.replace(example, 'texts = [""]'), tmp_path / "alone.py")  # for word models an array of no columns
    same_as_predict(alone, run, [""])


@needs_onnx
def test_the_printed_lines_for_pictures_answer_as_predict_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = picture_run(tmp_path / "run", "test_resnet")
    recipe = run.load_recipe()
    data = recipe.data.model_copy(update={"background": (0, 0, 255)})
    write_text(run.recipe, recipe.model_copy(update={"data": data}).to_yaml())
    done = export_onnx(run, run.path / "onnx")
    files = odd_pictures(tmp_path)
    lines = export.usage(run.load_recipe(), done)
    assert 'files = ["picture.jpg"]' in lines
    found = run_lines(lines.replace('files = ["picture.jpg"]', f"files = {files!r}"), tmp_path / "lines.py")
    same_as_predict(found, run, files)
    assert read_differently(lines, files, background=(0, 0, 255)) == []
    careless = lines.replace("ImageOps.exif_transpose(Image.open(file))", "Image.open(file).convert('RGB')")
    assert read_differently(careless, files, background=(0, 0, 255)) == files[1:]  # so the pictures would tell
