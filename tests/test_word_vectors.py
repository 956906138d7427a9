"""Word vectors of one's own: GloVe by hand-worked numbers, the methods of gensim, and `hftl vectors` with what it writes."""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sparse
import torch
from conftest import Hftl
from safetensors.numpy import save_file
from small import train, write_recipe
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import BertPreTokenizer

import hftl as package
from hftl.errors import DataError, RecipeError, RunError
from hftl.files import read_json
from hftl.models import gensim_vectors, glove, glove_vectors, subwords
from hftl.models.glove_vectors import Gradient, Table, cells_of, count_pairs, objective, train_step
from hftl.models.segmentation import scores
from hftl.models.vectors import compose_vectors, read_vectors, read_words
from hftl.recipe import Recipe, RunSettings, Stage, TextCNN, TextData
from hftl.records.data import read_data
from hftl.samples import REVIEWS
from hftl.sharing.card import render_card
from hftl.training import finish
from hftl.training.experiment import Experiment, prepare_experiment

needs_gensim = pytest.mark.skipif(
    sys.version_info >= gensim_vectors.NO_GENSIM, reason="gensim cannot be built for this Python (pyproject.toml)"
)
LN10, LN_625 = 2.302585, -0.470004  # ln 10, ln 0.625


def ids(*numbers: int) -> Any:
    return np.array(numbers, dtype=np.int32)


def table(vectors: Sequence[float], biases: Sequence[float]) -> Table:
    """A number a word, and a bias; AdaGrad's sums begin with 1."""
    numbers, bias = torch.tensor(vectors)[:, None], torch.tensor(biases)
    return Table(numbers, bias, torch.ones_like(numbers), torch.ones_like(bias))


# --- GloVe by hand --------------------------------------------------------------------------------------------------------------


def test_pairs_are_counted_by_one_over_their_distance_within_a_text() -> None:
    x = count_pairs([ids(0, 1, 0), ids(2), ids(1, -1, 2)], 3, window=2).toarray()
    #  0 1 0: 0-1 twice side by side, 0-0 at two words. The unknown word keeps its place: 1 and 2 are two words apart.
    assert x.tolist() == [[1.0, 2.0, 0.0], [2.0, 0.0, 0.5], [0.0, 0.5, 0.0]]
    narrow = count_pairs([ids(0, 1, 0), ids(2), ids(1, -1, 2)], 3, window=1).toarray()
    assert narrow.tolist() == [[0.0, 2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]


def test_blocks_and_threads_change_no_count(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    texts = [generator.integers(-1, 20, size=length).astype(np.int32) for length in generator.integers(0, 30, size=40)]
    slowly = np.zeros((20, 20))
    for text in texts:
        for here, word in enumerate(text):
            for there in range(max(0, here - 4), min(len(text), here + 5)):
                if there != here and word >= 0 and text[there] >= 0:
                    slowly[word, text[there]] += 1 / abs(here - there)
    at_once = count_pairs(texts, 20, window=4)
    np.testing.assert_allclose(at_once.toarray(), slowly, rtol=1e-6)
    monkeypatch.setattr(glove_vectors, "WORDS", 50)
    for threads in (1, 3):
        assert (count_pairs(texts, 20, window=4, threads=threads) != at_once).nnz == 0


def test_no_texts_have_no_pairs() -> None:
    assert count_pairs([], 3, window=2).nnz == 0 and count_pairs([ids(0), ids(), ids(-1, 2)], 3, window=2).nnz == 0


def by_hand() -> tuple[glove_vectors.Cells, Table, Table]:
    """Three words of one dimension: X_01 = X_10 = 10, of weight 1; X_12 = X_21 = 0.625, of weight 0.0625^0.75 = 1/8."""
    x = sparse.csr_matrix(np.array([[0, 10, 0], [10, 0, 0.625], [0, 0.625, 0]], dtype=np.float32))
    return cells_of(x), table([0.5, -1.0, 2.0], [0.1, 0.0, 0.0]), table([1.0, 0.5, -0.5], [0.0, 0.2, 0.0])


def test_the_objective_is_the_papers_by_hand_worked_numbers() -> None:
    cells, words, contexts = by_hand()
    expected = [
        0.5 * 0.5 + 0.1 + 0.2 - LN10,  # w0 c1 + a0 + b1 - ln X01 = -1.752585
        -1.0 * 1.0 - LN10,  # -3.302585
        -1.0 * -0.5 - LN_625,  # 0.970004
        2.0 * 0.5 + 0.2 - LN_625,  # 1.670004
    ]
    assert glove_vectors.errors(cells, words, contexts).tolist() == pytest.approx(expected, abs=1e-5)
    assert glove_vectors.weights(np.array([0.625, 10.0, 99.0], dtype=np.float32)).tolist() == pytest.approx([0.125, 1.0, 1.0])
    # 3.071554 + 10.907068 + (0.940908 + 2.788913) / 8
    assert objective(cells, words, contexts) == pytest.approx(14.444850, abs=1e-4)


def test_a_step_of_adagrad_is_the_one_by_hand() -> None:
    cells, words, contexts = by_hand()
    with Gradient(threads=1) as gradient:
        assert train_step(cells, words, contexts, gradient) == pytest.approx(14.444850, abs=1e-4)
    # w1: g = 2 (-3.302585 * 1 + 0.970004 / 8 * -0.5) = -6.726421; sum of squares 1 + 45.244736; step 0.05 g / 6.800348 = -0.049456
    assert words.vectors[1].item() == pytest.approx(-1.0 + 0.049456, abs=1e-5)
    assert words.squares[1].item() == pytest.approx(46.244736, abs=1e-3)
    # b1: g = 2 (-1.752585 + 1.670004 / 8) = -3.087669; 1 + 9.533700; 0.05 g / 3.245566 = -0.047568
    assert contexts.biases[1].item() == pytest.approx(0.2 + 0.047568, abs=1e-5)
    # c2: g = 2 * 0.970004 / 8 * w1 (as it was) = -0.242501; 1 + 0.058807; 0.05 g / 1.028983 = -0.011784
    assert contexts.vectors[2].item() == pytest.approx(-0.5 + 0.011784, abs=1e-5)
    assert words.biases[0].item() == pytest.approx(0.1 + 0.05 * 2 * 1.752585 / math.sqrt(1 + (2 * 1.752585) ** 2), abs=1e-5)


def test_the_gradient_of_a_step_is_that_of_the_objective_as_torch_derives_it() -> None:
    x = count_pairs(running_text(), 20, window=5)
    generator = torch.Generator().manual_seed(0)
    words, contexts = (Table.drawn(20, 3, generator) for _ in range(2))
    leaves = [part.double().requires_grad_() for part in (words.vectors, words.biases, contexts.vectors, contexts.biases)]
    w, a, c, b = leaves
    dense = torch.from_numpy(x.toarray()).double()
    weight = (dense / 10).clamp(max=1) ** 0.75
    errors = w @ c.T + a[:, None] + b - dense.clamp(min=1e-9).log()
    torch.autograd.backward((weight * errors.square()).sum())  # where X is 0, f(X) is
    with Gradient(threads=3) as gradient:
        train_step(cells_of(x), words, contexts, gradient)
    for leaf, squares in zip(leaves, (words.squares, words.bias_squares, contexts.squares, contexts.bias_squares), strict=True):
        assert leaf.grad is not None
        torch.testing.assert_close(squares.double(), glove_vectors.BEGIN + leaf.grad.square(), rtol=1e-4, atol=1e-4)


def running_text() -> list[Any]:
    """Words 0 to 9 and 10 to 19 stand among their own."""
    generator = np.random.default_rng(1)
    return [(generator.integers(0, 10, size=12) + 10 * (place % 2)).astype(np.int32) for place in range(200)]


def test_the_loss_falls_and_the_same_seed_gives_the_same_vectors_whatever_the_threads() -> None:
    x = count_pairs(running_text(), 20, window=5)
    said: list[str] = []
    vectors, losses = glove_vectors.learn(x, 4, 40, seed=3, threads=1, say=said.append)
    assert all(later < earlier for earlier, later in itertools.pairwise(losses)) and losses[-1] < losses[0] / 4
    assert said[0].startswith("epoch 1 of 40: loss ") and "minutes to go" in said[0] and "to go" not in said[-1]
    again, _ = glove_vectors.learn(x, 4, 40, seed=3, threads=2, say=said.append)
    other, _ = glove_vectors.learn(x, 4, 40, seed=4, threads=1, say=said.append)
    assert np.array_equal(vectors, again) and not np.array_equal(vectors, other)


def test_an_analogy_is_the_nearest_word_but_none_of_the_three() -> None:
    vectors = np.array([[1, 0], [1, 1], [0, 1], [-1, 2], [5, -5]], dtype=np.float32)
    # b - a + c of unit vectors: (.71, .71) - (1, 0) + (0, 1) = (-.29, 1.71), nearest to (-1, 2)
    assert glove_vectors.solve(vectors, 0, 1, 2) == 3
    assert glove_vectors.nearest(vectors, vectors[[0]], 2).tolist() == [[0, 1]]


# --- words ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("segmentation", ["auto", "characters"])
def test_texts_are_numbered_as_the_tokenizer_of_a_model_cuts_them(segmentation: str) -> None:
    texts = [
        "It didn't work.<br />It's Smith's 3,000 films -- a well-made film...",
        "送餐速度快，LG味道好 a film n't",
        "速度快 味道好\nfilm\ttwo  spaces ",
        "",
        "didn’t “quoted” café cafe\u0301 ΣΑΣ",
    ] * 3
    spec = TextCNN(vectors="random:4", segmentation=segmentation, min_count=1)  # type: ignore[arg-type]
    vocabulary = glove.read_vocabulary(spec, texts)
    tokenizer = glove.make_tokenizer(vocabulary.words, vocabulary.cut, scores(vocabulary.pieces))
    numbered = list(glove.number_words(vocabulary, texts))
    assert vocabulary.cut == ("words" if segmentation == "auto" else "characters")
    for text, numbers in zip(texts, numbered, strict=True):
        assert (numbers + 2).tolist() == tokenizer(text)["input_ids"]


def test_a_word_outside_the_vocabulary_keeps_its_place_as_minus_one() -> None:
    vocabulary = glove.read_vocabulary(TextCNN(vectors="random:4", min_count=2), ["a film a", "film once"])
    assert vocabulary.words == ["a", "film"]
    assert [numbers.tolist() for numbers in glove.number_words(vocabulary, ["a once film"])] == [[0, -1, 1]]


# --- the command ----------------------------------------------------------------------------------------------------------------


def recipe(**data: Any) -> Recipe:
    return Recipe(
        name="words",
        data=TextData(**{"source": REVIEWS, "max_length": 32, "max_train_samples": 60, **data}),
        model=TextCNN(vectors="random:8", kernel_widths=(2,), channels=4),
        stages={"all": Stage(unfreeze="all", lr=1e-3)},
        run=RunSettings(baseline="none"),
    )


def words_of(experiment: Experiment) -> tuple[torch.Tensor, Any]:
    """The table of word vectors, a row a word, and the tokenizer."""
    weight: Any = experiment.classifier.model.get_input_embeddings().weight
    return weight.detach(), experiment.classifier.preprocessor


def quickly(output: Path, source: Any = None, **options: Any) -> Any:
    few = {"dimensions": 8, "epochs": 2, "window": 3, "min_count": 3, "say": lambda line: None}
    return package.vectors(recipe() if source is None else source, output, **{**few, **options})


def test_what_is_written_is_read_by_a_model_and_the_run_says_how_it_was_learned(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("a wonderful film with a wonderful cast\n" * 3 + "\n", encoding="utf-8")
    said: list[str] = []
    output = tmp_path / "own.txt.gz"
    own = quickly(output, recipe(unlabelled=str(tmp_path / "more.txt")), say=said.append)
    text = "\n".join(said)
    assert "train: 60 texts" in text and "more.txt: 3 texts" in text and "different ones get a vector" in text
    assert "pairs of words stand near each other" in text and "epoch 2 of 2: loss" in text and "nearest words:" in text
    lines = gzip.decompress(output.read_bytes()).decode().splitlines()
    assert len(lines) == len(own.words) and lines[0].split(" ")[0] == own.words[0] and len(lines[0].split(" ")) == 9
    experiment = prepare_experiment(recipe().model_copy(update={"model": TextCNN(vectors=str(output), channels=4)}))
    weight, tokenizer = words_of(experiment)
    row = tokenizer.convert_tokens_to_ids("film")
    assert weight[row].tolist() == pytest.approx(own.vectors[own.words.index("film")].tolist(), rel=1e-4)
    facts = experiment.classifier.facts
    assert facts["vectors"]["method"] == "glove" and facts["vectors"]["texts"] == 63
    assert facts["vectors"]["names"] == ["train 60", "more.txt 3"]
    on_record = read_json(tmp_path / "own.txt.gz.json")["learned_vectors"]
    assert on_record["texts"][1]["left_out"] == {"in validation or test": 0, "empty": 1} and on_record["words"] == len(own.words)
    assert on_record["window"] == 3 and len(on_record["losses"]) == 2 and str(tmp_path) not in json.dumps(on_record)


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        quickly(tmp_path / name, threads=1 if name == "a.txt" else 2)
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes()
    with pytest.raises(RunError, match=r"a\.txt: is there already, and is not written over"):
        quickly(tmp_path / "a.txt")


def test_vectors_that_were_changed_afterwards_are_not_passed_off_as_what_was_learned(tmp_path: Path) -> None:
    quickly(tmp_path / "own.txt")
    with (tmp_path / "own.txt").open("a", encoding="utf-8") as stream:
        stream.write("zzzz " + "0.5 " * 7 + "0.5\n")
    changed = recipe().model_copy(update={"model": TextCNN(vectors=str(tmp_path / "own.txt"), channels=4)})
    with pytest.raises(RecipeError, match=r"own\.txt\.json says how a file of another content was learned"):
        prepare_experiment(changed)


def test_a_stop_while_the_file_is_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hftl.training.word_vectors.fingerprint", stopped)  # after the numbers, before the name
    with pytest.raises(KeyboardInterrupt):
        quickly(tmp_path / "own.txt")
    assert list(tmp_path.iterdir()) == []


def test_a_kill_between_the_two_files_stops_nobody_and_a_file_of_somebody_else_stays(tmp_path: Path) -> None:
    quickly(tmp_path / "own.txt")
    (tmp_path / "own.txt").unlink()
    quickly(tmp_path / "own.txt", epochs=1)
    assert read_json(tmp_path / "own.txt.json")["learned_vectors"]["epochs"] == 1
    (tmp_path / "more.txt.json").write_text('{"notes": "mine"}', encoding="utf-8")
    with pytest.raises(RunError, match=r"more\.txt\.json: is there already"):
        quickly(tmp_path / "more.txt")


def test_a_run_over_learned_vectors_and_its_card_name_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finish, "write_figures", lambda *_: [])
    quickly(tmp_path / "own.txt")
    model = TextCNN(vectors=str(tmp_path / "own.txt"), kernel_widths=(2,), channels=4)
    run = train(recipe(max_validation_samples=20, max_test_samples=20).model_copy(update={"model": model}), tmp_path / "run")
    assert read_data(run)["model"]["vectors"]["names"] == ["train 60"]
    assert (
        "own.txt, learned without labels by glove (8 dimensions, a window of 3, 2 epochs) from 60 texts (train 60)"
        in render_card(run)
    )


def test_the_command_prints_how_it_goes_and_takes_a_source_by_itself(hftl: Hftl, tmp_path: Path) -> None:
    few = ("--dimensions", 4, "--epochs", 1, "--window", 2)
    code, _, err = hftl("vectors", REVIEWS, *few, "--output", tmp_path / "own.txt")
    assert code == 0 and "train: 600 texts" in err and f"words in {tmp_path}/own.txt" in err.replace("\n", " ")
    file = write_recipe(recipe(), tmp_path)
    code, _, err = hftl("vectors", file, *few, "--output", tmp_path / "other.txt", "data.max_train_samples=50")
    assert code == 0 and "train: 50 texts" in err


def test_every_mistake_is_one_message_and_exit_code_two(hftl: Hftl, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n", encoding="utf-8")
    (tmp_path / "alone.txt").write_text("a\nb\na\nb\n", encoding="utf-8")
    file = write_recipe(recipe(), tmp_path)
    output = ("--output", tmp_path / "own.txt")
    cases: list[tuple[tuple[Any, ...], str]] = [
        ((tmp_path / "empty.txt", *output), "no text to learn from (empty.txt: 0 texts"),
        ((tmp_path / "alone.txt", *output, "--min-count", 1), "no two of the words stand near each other"),
        ((tmp_path / "alone.txt", *output), "no word is 5 times in the texts; the most frequent one is there 2 times"),
        ((tmp_path / "none.csv", *output), "no such file or folder"),
        ((file, *output, "data.unlabelled=test"), '"test" is the test split, and nothing may be learned from it'),
        ((REVIEWS, *output, "data.unlabelled=more"), "says nothing of how a source by itself is read"),
        ((REVIEWS, "--output", tmp_path / "own.bin"), ".bin keeps the n-grams, and goes with --method fasttext"),
        ((REVIEWS, "--output", tmp_path / "own"), "own does not end with .txt, .txt.gz"),
        ((REVIEWS, *output, "--dimensions", 0, "--window", 0), "2 problems in the settings of the vectors"),
    ]
    for arguments, said in cases:
        code, _, err = hftl("vectors", *arguments)
        assert code == 2 and said in " ".join(err.split()), err
        assert not (tmp_path / "own.txt").exists() and not (tmp_path / "own.txt.json").exists()


def test_recipes_of_pictures_are_refused(tmp_path: Path) -> None:
    pictures = Recipe.model_validate(
        {
            "name": "p",
            "data": {"kind": "image", "source": "photos"},
            "model": {"family": "timm", "checkpoint": "resnet10t"},
            "stages": {"all": {"lr": 1e-3}},
        }
    )
    with pytest.raises(RecipeError, match="pictures have no words"):
        quickly(tmp_path / "own.txt", pictures)


def test_texts_without_words_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text to learn from"):
        quickly(tmp_path / "own.txt", TextData(source=([" ", ""], ["a", "b"])))


# --- gensim ---------------------------------------------------------------------------------------------------------------------


@needs_gensim
@pytest.mark.parametrize("method", ["skip-gram", "cbow", "fasttext"])
def test_the_methods_of_gensim_write_the_same_file_again_with_one_thread(method: str, tmp_path: Path) -> None:
    said: list[str] = []
    for name in ("a.txt", "b.txt"):
        own = quickly(tmp_path / name, method=method, threads=1, say=said.append)
    assert (tmp_path / "a.txt").read_bytes() == (tmp_path / "b.txt").read_bytes()
    assert own.vectors.shape == (len(own.words), 8) and own.facts["same_again"] and own.facts["versions"]["gensim"]
    assert "epoch 2 of 2" in said and not any("left to chance" in line for line in said)
    other = quickly(tmp_path / "c.txt", method=method, threads=2, seed=1, say=said.append)
    assert not other.facts["same_again"] and any("--threads 1: the same" in line for line in said)
    assert not np.array_equal(own.vectors, other.vectors)


@needs_gensim
def test_skip_gram_brings_words_together_that_stand_together(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    sides = (["red", "green", "blue", "white"], ["one", "two", "three", "four"])
    lines = [" ".join(generator.choice(sides[place % 2], size=8)) for place in range(400)]
    (tmp_path / "texts.txt").write_text("\n".join(lines), encoding="utf-8")
    own = quickly(
        tmp_path / "own.txt", str(tmp_path / "texts.txt"), method="skip-gram", epochs=20, threads=1, dimensions=10, window=5
    )
    assert {*own.nearest("red", 3)} == {"green", "blue", "white"} and {*own.nearest("four", 3)} == {"one", "two", "three"}


def test_a_long_text_is_learned_from_whole() -> None:
    texts = [np.zeros(25_000, dtype=np.int32), ids(1, -1, 0)]
    sentences = list(gensim_vectors._Sentences(texts, ["a", "b"]))
    assert [len(sentence) for sentence in sentences] == [10_000, 10_000, 5_000, 2] and sentences[-1] == ["b", "a"]


def test_without_gensim_its_methods_are_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gensim_vectors, "NO_GENSIM", (9, 0))
    monkeypatch.setitem(sys.modules, "gensim", None)
    monkeypatch.setitem(sys.modules, "gensim.models", None)
    with pytest.raises(
        RunError, match=r'need gensim, which is not installed:  pip install "hftl\[vectors\]"; --method glove needs'
    ):
        quickly(tmp_path / "own.txt", "no/such/source", method="cbow")
    monkeypatch.setattr(gensim_vectors, "NO_GENSIM", (3, 11))
    with pytest.raises(RunError, match=r"cannot be built for Python 3\.14; use Python 3\.11 to 3\.13, or --method glove"):
        quickly(tmp_path / "own.txt", "no/such/source", method="cbow")
    assert list(tmp_path.iterdir()) == []


# --- words from their parts -------------------------------------------------------------------------------------------------------

# Made by Facebook's own program, fasttext 0.9.3: skipgram -dim 2 -bucket 11 -minn 2 -maxn 3 -minCount 1 -epoch 2 -thread 10, over
# nine lines "at the café".
FACEBOOK = (
    "uhZPLwwAAAACAAAABQAAAAIAAAABAAAABQAAAAEAAAACAAAAAgAAAAsAAAACAAAAAwAAAGQAAAAtQxzr4jYaPwQAAAAEAAAAAAAAACQAAAAAAA"
    "AA//////////9hdAAJAAAAAAAAAAB0aGUACQAAAAAAAAAAY2Fmw6kACQAAAAAAAAAAPC9zPgAJAAAAAAAAAAAADwAAAAAAAAACAAAAAAAAAKB2"
    "1L5Ggcg+++CevqB21L5Ggcg+++CevkHtqL6MApE+3Af3vcPHer6kBzM+N3SNPQS1I75fFIg9EnyEPolEmb0RzSu9F5vlPqYHJzy48Bm+5UW5vn"
    "MGwz0Wd4S+wE0wvvmVOD7Q9bu+RoKPPFzUhz6KdPO+Ui5UPgAEAAAAAAAAAAIAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
    "AAA="
)


def test_a_file_of_fasttexts_own_program_is_read_as_that_program_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "own.bin"
    path.write_bytes(base64.b64decode(FACEBOOK))
    words, vectors = read_vectors(str(path))
    assert words == ["at", "the", "café", "</s>"]
    # `fasttext print-word-vectors` says:
    expected = {
        "at": [-0.26654, 0.15413],
        "the": [-0.13379, 0.0033574],
        "café": [-0.14844, 0.10223],
        "</s>": [-0.32994, 0.28322],
        "cafés": [-0.18415, 0.11352],
        "hat": [-0.12347, 0.091341],
    }
    found, composed = compose_vectors(str(path), ["cafés", "hat"])
    for word, vector in zip([*words, *found], np.concatenate([vectors, composed]), strict=True):
        assert vector.tolist() == pytest.approx(expected[word], abs=1e-5)


def test_hashes_and_n_grams_are_fasttexts() -> None:
    assert subwords.ngrams("at", 2, 3) == ["<a", "<at", "at", "at>", "t>"]
    assert subwords.ngrams("a", 1, 2) == ["<a", "a", "a>"]
    assert subwords.hashed("a") == 0xE40C292C and subwords.hashed("") == 2_166_136_261  # FNV's own examples
    # 0xE9 as UTF-8 is 0xC3 0xA9: the first byte is taken for -61, so that its three upper bytes are turned over.
    step = ((2_166_136_261 ^ 0xFFFFFFC3) * 16_777_619) & 0xFFFFFFFF
    assert subwords.hashed("é") == ((step ^ 0xFFFFFFA9) * 16_777_619) & 0xFFFFFFFF


@needs_gensim
def test_a_vocabulary_word_that_fasttext_lacks_has_the_vector_of_its_n_grams_as_gensim_makes_it(tmp_path: Path) -> None:
    from gensim.models.fasttext import load_facebook_vectors

    path = tmp_path / "own.bin"
    own = quickly(path, method="fasttext", threads=1, min_count=5)
    theirs = load_facebook_vectors(str(path))
    words, vectors = read_vectors(str(path), {"film", "zzz", "wonderful"})
    np.testing.assert_allclose(vectors[words.index("film")], theirs["film"], atol=1e-6)
    np.testing.assert_allclose(vectors[words.index("film")], own.vectors[own.words.index("film")], atol=1e-6)
    experiment = prepare_experiment(recipe().model_copy(update={"model": TextCNN(vectors=str(path), channels=4)}))
    facts = experiment.classifier.facts["vocabulary"]
    assert facts["from_parts"] > 0 and facts["in_vectors"] + facts["from_parts"] == facts["words"]
    weight, tokenizer = words_of(experiment)
    composed = next(word for word in tokenizer.get_vocab() if word.isalpha() and len(word) > 5 and word not in theirs.key_to_index)
    np.testing.assert_allclose(weight[tokenizer.convert_tokens_to_ids(composed)], theirs[composed], atol=1e-6)


def model2vec(folder: Path, **tensors: Any) -> Path:
    """A table as model2vec lays it out: "film" and "s" are tokens, "films" is both."""
    tokenizer = Tokenizer(WordPiece({"[UNK]": 0, "film": 1, "##s": 2, "good": 3}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), BertPreTokenizer()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    table = np.array([[9, 9], [1, 0], [0, 1], [4, 4]], dtype=np.float32)
    save_file({"embeddings": table, **tensors}, folder / "model.safetensors")
    return folder


def test_a_table_of_model2vec_gives_a_word_the_mean_of_its_tokens(tmp_path: Path) -> None:
    folder = str(model2vec(tmp_path / "plain"))
    for path in (folder, f"{folder}/model.safetensors"):
        words, vectors = read_vectors(path, {"film", "films", "good", "bad"})
        assert words == ["film", "good"] and vectors.tolist() == [[1, 0], [4, 4]]
        assert compose_vectors(path, ["films", "bad"])[1].tolist() == [[0.5, 0.5]]
    assert read_words(folder, lambda word: True) == ["[UNK]", "film", "good"]
    # With weights of the tokens, and rows that several of them share.
    weighted = model2vec(
        tmp_path / "weighted",
        weights=np.array([1, 2, 4, 1], dtype=np.float64),
        mapping=np.array([0, 2, 1, 3], dtype=np.int64),
    )
    assert compose_vectors(str(weighted), ["films"])[1].tolist() == [[2.0, 1.0]]  # (2 (0, 1) + 4 (1, 0)) / 2


@needs_gensim
def test_files_that_are_broken_or_would_run_code_are_refused_in_one_message(tmp_path: Path) -> None:
    from gensim.models import KeyedVectors

    whole = base64.b64decode(FACEBOOK)
    keyed = KeyedVectors(2)
    keyed.add_vectors(["a", "b"], np.eye(2, dtype=np.float32))
    keyed.save(str(tmp_path / "own.kv"))
    files = {
        "cut.bin": (whole[:200], r"says \d+ rows of 2 numbers|ends, or has no word"),
        "short.bin": (whole[:40], "ends within its first hundred bytes"),
        "version.bin": (whole[:4] + b"\x63" + whole[5:], "version 99 of fastText's format; 11 and 12 are read"),
        "huge.bin": (whole[:8] + b"\xff\xff\xff\x7f" + whole[12:], "says 2,147,483,647 dimensions"),
        "words.bin": (whole[:68] + b"\xff\xff\xff\x7f" + whole[72:], "2,147,483,647 words of"),
        "own.kv": ((tmp_path / "own.kv").read_bytes(), "a Python pickle, as gensim's .kv and .model are.*save_word2vec_format"),
    }
    for name, (content, said) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RecipeError, match=f"(?s){said}"):
            read_vectors(str(tmp_path / name), {"at"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match=r"a folder without model\.safetensors and tokenizer\.json"):
        read_vectors(str(tmp_path / "empty"))
    folder = model2vec(tmp_path / "broken")
    (folder / "tokenizer.json").write_text('{"model": {"type": "None"}}', encoding="utf-8")
    with pytest.raises(RecipeError, match=r"cannot be read: tokenizer\.json"):
        read_vectors(str(folder))
    folder = model2vec(tmp_path / "few", embeddings=np.zeros((2, 2), dtype=np.float32))
    with pytest.raises(RecipeError, match=r"tokenizer\.json has 4 tokens, and model\.safetensors 2 vectors"):
        read_vectors(str(folder))


def test_a_quantised_file_of_fasttext_is_refused(tmp_path: Path) -> None:
    content = bytearray(base64.b64decode(FACEBOOK))
    content[subwords_end(bytes(content))] = 1  # "quantised"
    (tmp_path / "own.ftz").write_bytes(content)
    with pytest.raises(RecipeError, match=r"a quantised model \(\.ftz\)"):
        read_vectors(str(tmp_path / "own.ftz"))


def test_a_file_of_fasttext_that_was_cut_off_anywhere_before_the_end_of_its_vectors_is_refused(tmp_path: Path) -> None:
    whole, path = base64.b64decode(FACEBOOK), tmp_path / "own.bin"
    end = subwords_end(whole) + 1 + 16 + 15 * 2 * 4  # a byte, the sizes, and 4 words and 11 n-grams of two numbers of 4 bytes
    for length in range(4, end):
        path.write_bytes(whole[:length])
        with pytest.raises(RecipeError, match="is the file whole"):
            read_vectors(str(path))
    path.write_bytes(whole[:end])
    assert len(read_vectors(str(path))[0]) == 4


def subwords_end(content: bytes) -> int:
    """Where the dictionary ends: after each word a zero, 8 bytes of how often and 1 of its kind."""
    place = 92
    for _ in range(int.from_bytes(content[64:68], "little")):
        place = content.index(b"\0", place) + 10
    return place
