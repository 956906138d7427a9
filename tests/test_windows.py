"""Long texts in windows: worked by hand, learned through all of them, served the same, and the network itself where one will do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from small import BERT_NANO, nano, quiet, write_rows
from transformers import AutoTokenizer

import hftl
from hftl.data.text import TextSamples, text_facts
from hftl.errors import RecipeError
from hftl.files import read_json
from hftl.models import load_classifier, save_classifier, transformer
from hftl.models.boundary import NotSeparable, find_boundary
from hftl.models.family import Classifier
from hftl.models.pooling_modeling import PooledForSequenceClassification, WindowedConfig, WindowedForSequenceClassification
from hftl.recipe import Stage, TextData, Transformer, Windows, load_recipe, override
from hftl.sharing import export
from hftl.sharing.contents import foreign
from hftl.sharing.parity import check_serving
from hftl.sharing.publication import prepare

LABELS = ("bad", "good")
LONG = "this film is good at the start and bad at the end and i was not sure what to say of it"
SHORT = "a good film"
SMALL = Windows(length=8, overlap=2)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(BERT_NANO)


def build(windows: Windows | None, **model: Any) -> Classifier:
    torch.manual_seed(0)
    return transformer.build(Transformer(checkpoint=BERT_NANO, **model), LABELS, windows=windows)


def evaluated(classifier: Classifier) -> Any:
    """Its model, in evaluation mode."""
    model: Any = classifier.model
    return model.eval()


def encoded(tokenizer: Any, *texts: str) -> Any:
    return tokenizer(list(texts), padding=True, return_tensors="pt")


def pieces(ids: list[int]) -> list[list[int]]:
    """What windows of 8 tokens, 2 of them shared, are: [CLS], 6 tokens of the text, [SEP]; each begins 4 further."""
    body = ids[1:-1]
    starts = range(0, max(len(body) - 2, 1), 4)
    return [[ids[0], *body[start : start + 6], ids[-1]] for start in starts]


def test_windows_have_the_special_tokens_of_the_text_and_share_their_ends() -> None:
    model = WindowedForSequenceClassification(
        WindowedConfig(network=build(None).model.config.to_diff_dict(), length=8, overlap=2, pad_token_id=0)
    )
    # 16 tokens, of which the first and the last are special ones; 10; 8; 3.
    mask = (torch.arange(16)[None] < torch.tensor([16, 10, 8, 3])[:, None]).long()
    places, counts = model.windows(mask)
    assert counts.tolist() == [[True, True, True], [True, True, False], [True, False, False], [True, False, False]]
    assert places[0].tolist() == [[0, 1, 2, 3, 4, 5, 6, 15], [0, 5, 6, 7, 8, 9, 10, 15], [0, 9, 10, 11, 12, 13, 14, 15]]
    assert places[1, :2].tolist() == [[0, 1, 2, 3, 4, 5, 6, 9], [0, 5, 6, 7, 8, 9, -1, -1]]
    assert places[2].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]] * 3  # what is not counted is the first once more
    assert places[3, 0].tolist() == [0, 1, 2, -1, -1, -1, -1, -1]
    model.config.padding_side = "left"
    places, counts = model.windows(mask.flip(1))
    assert places[1, :2].tolist() == [[6, 7, 8, 9, 10, 11, 12, 15], [-1, -1, 6, 11, 12, 13, 14, 15]]
    assert counts.sum(dim=1).tolist() == [3, 2, 1, 1]


@pytest.mark.parametrize("logits", ["mean", "max"])
def test_the_answer_is_made_of_the_logits_of_the_pieces_run_by_themselves(logits: Any, tokenizer: Any) -> None:
    model = evaluated(build(Windows(length=8, overlap=2, logits=logits)))
    ids = tokenizer(LONG)["input_ids"]
    with torch.no_grad():
        of_each = torch.cat([model.network(torch.tensor([piece])).logits for piece in pieces(ids)])
        expected = of_each.mean(dim=0) if logits == "mean" else of_each.max(dim=0).values
        answers = model(**encoded(tokenizer, SHORT, LONG)).logits
        assert len(of_each) == 5 and len(set(of_each[:, 0].tolist())) == 5
        torch.testing.assert_close(answers[1], expected)
        # Beside a longer text a short one is padded, and its windows that are not there count for nothing.
        torch.testing.assert_close(answers[:1], model.network(**encoded(tokenizer, SHORT)).logits)


def test_a_text_of_one_window_has_the_networks_own_numbers_bit_by_bit_in_training_too(tokenizer: Any) -> None:
    windowed, plain = build(Windows(length=32, overlap=8)), build(None)
    inputs = encoded(tokenizer, LONG, SHORT)
    assert 8 < inputs["input_ids"].shape[1] <= 32
    numbers: list[Any] = []
    for classifier in (windowed, plain):
        classifier.model.train()
        torch.manual_seed(3)  # dropout
        out: Any = classifier.model(**inputs, labels=torch.tensor([0, 1]))
        out.loss.backward()
        gradients = [parameter.grad for parameter in classifier.model.parameters()]
        numbers.append((out.logits.detach(), out.loss.detach(), gradients))
    (logits, loss, gradients), (own_logits, own_loss, own_gradients) = numbers
    assert torch.equal(logits, own_logits) and torch.equal(loss, own_loss)
    assert all(torch.equal(one, own) for one, own in zip(gradients, own_gradients, strict=True))


def test_every_window_of_a_text_is_learned_from(tokenizer: Any) -> None:
    model = evaluated(build(SMALL))
    inputs = encoded(tokenizer, LONG)
    model(**inputs, labels=torch.tensor([1])).loss.backward()
    table = model.get_input_embeddings().weight.grad
    assert (table[inputs["input_ids"][0]].abs().sum(dim=1) > 0).all()
    of_hand = evaluated(build(None))
    of_each = torch.cat([of_hand(torch.tensor([piece])).logits for piece in pieces(inputs["input_ids"][0].tolist())])
    torch.nn.functional.cross_entropy(of_each.mean(dim=0, keepdim=True), torch.tensor([1])).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(table, of_hand.get_input_embeddings().weight.grad)


def test_it_is_a_chain_whose_frozen_layers_are_computed_in_every_epoch() -> None:
    windowed, plain = build(SMALL), build(None)
    assert windowed.chain.names == plain.chain.names
    assert windowed.facts["new_parameters"] == [f"network.{name}" for name in plain.facts["new_parameters"]]
    assert windowed.max_length is not None and windowed.facts["max_positions"] is None
    inputs = {"input_ids": torch.ones(2, 12, dtype=torch.int64), "attention_mask": torch.ones(2, 12, dtype=torch.int64)}
    with pytest.raises(NotSeparable, match=r"as many windows as it takes \(data.windows\)"):
        find_boundary(windowed.model, windowed.chain, ("head",), inputs)


@pytest.mark.parametrize("pooling", ["native", "mean"])
def test_what_is_saved_is_loaded_with_equal_logits_and_can_be_built_upon(pooling: Any, tokenizer: Any, tmp_path: Path) -> None:
    built = build(SMALL, pooling=pooling)
    network: Any = built.model.network
    assert isinstance(network, PooledForSequenceClassification) == (pooling == "mean")
    save_classifier(built, tmp_path)
    names = [path.name for path in tmp_path.iterdir()]
    assert "pooling_modeling.py" in names and list(foreign(tmp_path, names)) == []
    again = load_classifier(tmp_path)
    inputs = encoded(tokenizer, LONG, SHORT)
    with torch.no_grad():
        expected = evaluated(built)(**inputs).logits
        assert torch.equal(evaluated(again)(**inputs).logits, expected)
        assert again.facts["max_positions"] is None and again.chain.names == built.chain.names
        here = Transformer(checkpoint=str(tmp_path))
        kept = transformer.build(here, LABELS, windows=Windows(length=8, overlap=2))
        assert kept.facts["new_parameters"] == [] and torch.equal(evaluated(kept)(**inputs).logits, expected)
        at_once = transformer.build(here, LABELS)
        assert type(at_once.model) is type(network)
        assert torch.equal(evaluated(at_once)(**inputs).logits, network(**inputs).logits)
        others = transformer.build(here, ("bad", "good", "neither"), windows=Windows(length=16, overlap=4, logits="max"))
        assert evaluated(others)(**inputs).logits.shape == (2, 3) and others.model.config.length == 16
        assert [name.rpartition(".")[2] for name in others.facts["new_parameters"]] == ["bias", "weight"]
    with pytest.raises(RecipeError, match=r"model.pooling: the checkpoint was trained in windows"):
        transformer.build(Transformer(checkpoint=str(tmp_path), pooling="max"), LABELS)


def test_layers_that_begin_anew_do_so_under_windows_and_where_the_checkpoint_had_them(tmp_path: Path) -> None:
    plain, windowed = build(None, reinitialize=1), build(SMALL, reinitialize=1)
    assert windowed.facts["new_parameters"] == [f"network.{name}" for name in plain.facts["new_parameters"]]
    save_classifier(build(SMALL), tmp_path)
    here = Transformer(checkpoint=str(tmp_path), reinitialize=1)
    for windows, expected in ((None, plain), (SMALL, windowed)):
        assert transformer.build(here, LABELS, windows=windows).facts["new_parameters"] == expected.facts["new_parameters"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"logits": "median"}, 'logits is "median"'),
        ({"padding_side": "middle"}, 'padding_side is "middle"'),
        ({"overlap": 6}, "a window has to reach further"),
        ({"length": "8"}, "a window has to reach further"),
        ({"before": -1}, "a window has to reach further"),
        ({"network": None}, "the network's model_type is None"),
        ({"network": {"model_type": "hftl_windowed"}}, "the network's model_type is 'hftl_windowed'"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WindowedConfig(**{"network": {"model_type": "bert"}, "length": 8, "overlap": 2, **values}).network_config()


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (
            Windows(length=8, overlap=6),
            "data.windows.overlap: a window of 8 tokens has 6 of the text, and 6 of them are in the one",
        ),
        (Windows(length=1024), r"data.windows.length: 1024 is longer than the \d+ positions of BertFor.*\n.*data.windows.length="),
    ],
)
def test_windows_that_do_not_fit_the_model_are_refused(windows: Windows, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(windows)


def test_a_recipe_names_windows_by_a_word_or_a_section_and_reads_back(tmp_path: Path) -> None:
    recipe = nano("x", TextData(source="x", max_length=512, windows="max"), {"all": Stage(lr=1e-3)})
    assert recipe.data.windows == Windows(length=256, overlap=64, logits="max")  # type: ignore[union-attr]
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    at_once = override(recipe, ["data.windows=null"])
    assert at_once.data.windows is None  # type: ignore[union-attr]
    for changes in (["data.windows.length=64"], ["data.windows=mean", "data.windows.length=64"], ["data.windows={length: 64}"]):
        assert override(at_once, changes).data.windows == Windows(length=64)  # type: ignore[union-attr]
    refused = {
        "data.windows=median": "data.windows.logits: input should be 'mean' or 'max'; found 'median'",
        "data.windows.width=9": 'data.windows.width: unknown key "width"',
        "data.truncate=windows": "write data.windows=mean data.max_length=2048",
        "data.max_length=256": "texts are cut to 256 tokens, which is no more than one window of 256; write data.max_length=2048",
        "model={family: textcnn, vectors: 'random:4'}": "data.windows: a textcnn reads a text of any length at once",
    }
    for change, message in refused.items():
        with pytest.raises(RecipeError) as caught:
            override(recipe, [change])
        assert message in str(caught.value), change
    with pytest.raises(RecipeError, match="pair: a window has a part of one text and none of the other"):
        TextData(source="x", max_length=512, windows="mean", text_column=("a", "b"), pair=True)


def test_a_batch_has_room_for_all_windows_of_its_texts(tokenizer: Any) -> None:
    # Of 22, 8, 9 and 40 tokens; of the last one 30 are read. Windows of 8 begin 4 further each: 1 + ceil((n - 8) / 4) of them.
    texts = ["good " * 20, "good " * 6, "good " * 7, "good " * 38]
    features = Features({"id": Value("string"), "text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    rows = Dataset.from_dict({"id": list("wxyz"), "text": texts, "label": [0, 1, 0, 1]}, features=features)
    samples = TextSamples(rows, tokenizer, max_length=30, windows=SMALL)
    assert samples.full_lengths.tolist() == [22, 8, 9, 40]
    assert samples.windows_of_each.tolist() == [5, 1, 2, 7]
    assert samples.lengths.tolist() == [40, 8, 16, 56]
    facts = text_facts(samples)
    # 120 tokens are computed, and of four first windows 32 would be; 10 of 79 tokens are cut off.
    assert facts["windows"] == {"length": 8, "mean": 15 / 4, "most": 7, "cost": 120 / 32}
    assert facts["share_lost"] == pytest.approx(10 / 79) and facts["share_truncated"] == 0.25
    assert samples.collate([samples[0, 1]])["input_ids"].shape == (1, 8)
    assert samples.collate([samples[0, 3]])["input_ids"].shape == (1, 30)
    wide = TextSamples(rows, tokenizer, max_length=30, windows=Windows(length=9, overlap=2))
    assert wide.collate([wide[0, 2]])["input_ids"].shape == (1, 9)  # padded to 16 there would be a second window


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> hftl.Run:
    """The first fourteen words of a text, of which its first window has no more, say nothing."""
    folder = tmp_path_factory.mktemp("windows")
    generator = np.random.default_rng(0)
    words = ["film", "start", "end", "actor", "scene", "music", "story", "camera"]
    rows = [
        {"text": " ".join([*generator.choice(words, 14), *[("bad", "good")[row % 2]] * 12]), "label": ("neg", "pos")[row % 2]}
        for row in range(120)
    ]
    data = TextData(
        source=str(write_rows(folder / "train.csv", rows)), max_length=64, windows=Windows(length=16, overlap=4),
        validation_fraction=0.2,
    )  # fmt: skip
    recipe = nano("windows", data, {"all": Stage(unfreeze="all", lr=1e-3, epochs=4)})
    return hftl.train(override(recipe, ["card.license=mit"]), run_dir=folder / "run", console=quiet())


def test_what_stands_behind_the_first_window_is_learned_said_and_served(run: hftl.Run) -> None:
    assert run.metrics["validation"]["accuracy"] > 0.9
    log = (run.path / "log.txt").read_text(encoding="utf-8")
    [remark] = [line for line in read_json(run.paths.plan)["remarks"] if line.startswith("A text is read")]
    assert remark == "A text is read in 3 windows of 16 tokens, at most 3: 3 times the tokens of the first window alone."
    assert "train: a text is read in 3 windows of 16 tokens, at most 3" in log
    card = run.paths.card.read_text(encoding="utf-8")
    assert "A text is read in windows of 16 tokens that share 4, and the answer is the mean of their logits. `import" in card
    text = "film start end actor scene music story camera film start end actor scene music story camera film start end good"
    code = card.split("For a batch, without the pipeline:\n\n```python\n")[1].split("```")[0]
    code = code.replace("RUN/model", str(run.path / "model")).replace("Put a text here.", text)
    printed: list[Any] = []
    exec(code, {"print": lambda *values: printed.append(values)})  # noqa: S102  # the lines as a reader copies them
    [answer] = run.predict([text])
    assert printed[0][1:] == (answer.label, pytest.approx(answer.probability, abs=1e-5))


@pytest.mark.slow
def test_a_pipeline_serves_it_without_hftl_and_onnx_gives_its_logits_on_both_sides_of_a_window(
    run: hftl.Run, tmp_path: Path
) -> None:
    assert check_serving(run.paths, prepare(run.paths, "me/windows")).samples > 4
    done = export.export_onnx(run.paths, tmp_path / "onnx")
    assert done.largest_difference < 1e-4 and done.batches > 9


def test_a_saved_model_without_its_recipe_answers_the_same(run: hftl.Run, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_classifier(load_classifier(run.paths.model), folder)
    text = "film start end actor " * 6 + "good"
    assert hftl.load(folder).predict([text])[0].probabilities == pytest.approx(run.predict([text])[0].probabilities, abs=1e-6)


def test_frozen_features_of_a_text_are_the_mean_over_its_windows(tokenizer: Any) -> None:
    from hftl.training.features import pooled

    model = evaluated(build(SMALL))
    inputs = dict(encoded(tokenizer, LONG, SHORT))
    with torch.no_grad():
        found = pooled(model, inputs)
        for row, text in enumerate((LONG, SHORT)):
            of_pieces = [
                pooled(model.network, {"input_ids": torch.tensor([piece]), "attention_mask": torch.ones(1, len(piece))})
                for piece in pieces(tokenizer(text)["input_ids"])
            ]
            torch.testing.assert_close(found[row], torch.cat(of_pieces).mean(dim=0), rtol=1e-4, atol=1e-4)
