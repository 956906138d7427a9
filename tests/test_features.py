"""`hftl features`: what enters a layer group, one vector an input, beside what the model itself computes; and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Hftl
from small import BERT_NANO, write_picture
from small_models import tiny_bert, write_resnet, write_textcnn

import hftl as door
from hftl.data import text
from hftl.errors import HftlError, RunError
from hftl.extraction import _mean_over_places
from hftl.samples import REVIEWS
from hftl.training.features import pooled_tokens

TEXTS = ["A warm, funny film.", "Dull", "Two hours that nobody gives back, and a slow, weak end."]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> door.Run:
    return door.load(tiny_bert(tmp_path_factory.mktemp("bert")))


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> door.Run:
    folder = tmp_path_factory.mktemp("resnet") / "model"
    write_resnet(folder)
    return door.load(folder)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(3):
        write_picture(folder / f"{seed}.png", seed=seed)
    return folder


def states_of(run: door.Run, words: str) -> torch.Tensor:
    """The hidden states of one text alone, without padding: (layers + 1, T, D)."""
    with torch.inference_mode():
        inputs = run.tokenizer(words, return_tensors="pt").to(run.model.device)
        return torch.cat(run.model(**inputs, output_hidden_states=True).hidden_states).cpu()


# --- values -------------------------------------------------------------------------------------------------------------------


def test_the_mean_is_that_of_the_real_tokens_and_padding_may_be_on_either_side() -> None:
    states = torch.tensor([[[1.0, 2], [3, 6], [100, 100]], [[100.0, 100], [4, 0], [0, 8]]])
    mask = torch.tensor([[1, 1, 0], [0, 1, 1]])
    mean, first = pooled_tokens(states, mask).unbind(dim=1)
    assert mean.tolist() == [[2, 4], [2, 4]]  # (1 + 3) / 2, (2 + 6) / 2; (4 + 0) / 2, (0 + 8) / 2
    assert first.tolist() == [[1, 2], [4, 0]]


def test_the_mean_over_places_knows_channels_that_are_first_or_last_and_says_where_it_does_not() -> None:
    picture = torch.arange(8.0).reshape(1, 2, 2, 2)  # channel 0 has 0 to 3, channel 1 has 4 to 7
    wide = torch.cat([picture, picture], dim=1)  # (1, 4, 2, 2)
    assert _mean_over_places(wide, (64, 64), "layer1").tolist() == [[1.5, 5.5, 1.5, 5.5]]
    assert _mean_over_places(wide.permute(0, 2, 3, 1), (64, 64), "layer1").tolist() == [[1.5, 5.5, 1.5, 5.5]]
    assert _mean_over_places(torch.ones(1, 3, 2, 4), (32, 64), "layer1").shape == (1, 3)
    assert _mean_over_places(picture.reshape(1, 4, 2), (64, 64), "layer1").tolist() == [[3, 4]]
    assert _mean_over_places(picture, (64, 64), "layer1", convolved=True).tolist() == [[1.5, 5.5]]
    with pytest.raises(RunError, match="cannot be told from places; name another group"):
        _mean_over_places(picture, (64, 64), "layer1")


@pytest.mark.parametrize(("group", "place"), [(None, 2), ("layer.1", 1)])
def test_features_of_a_text_are_the_models_own_hidden_states_whatever_shares_its_batch(
    bert: door.Run, group: str | None, place: int
) -> None:
    """Beside a longer text it is padded, and the padding masked."""
    expected = np.stack([states_of(bert, words)[place].mean(dim=0) for words in TEXTS])
    found = bert.features(TEXTS, group=group)
    assert found.dtype == np.float32 and found.shape == (3, 16)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_text_has_the_same_features_alone_and_again_and_those_of_its_first_token_are_its_own(bert: door.Run) -> None:
    found = bert.features(TEXTS, pooling="first")
    np.testing.assert_allclose(found, np.stack([states_of(bert, words)[-1][0] for words in TEXTS]), atol=1e-5)
    np.testing.assert_array_equal(bert.features(TEXTS, pooling="first"), found)
    np.testing.assert_allclose(bert.features(TEXTS[1], pooling="first"), found[1:2], atol=1e-5)


def test_asking_for_features_leaves_the_model_as_it_was(bert: door.Run) -> None:
    before = [answer.probability for answer in bert.predict(TEXTS)]
    bert.features(TEXTS, group="layer.1")
    assert [answer.probability for answer in bert.predict(TEXTS)] == before
    assert not any(module._forward_pre_hooks or "forward" in vars(module) for module in bert.model.modules())


def test_features_of_a_picture_are_what_enters_the_output_layer_or_the_mean_of_a_map(resnet: door.Run, pictures: Path) -> None:
    network: Any = resnet.model.timm_model
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0].cpu()}))
        for name, module in (("fc", network.get_submodule("fc")), ("layer3", network.get_submodule("layer3")))
    ]
    resnet.predict(pictures)
    for hook in hooks:
        hook.remove()
    np.testing.assert_allclose(resnet.features(pictures), seen["fc"], atol=1e-5)
    np.testing.assert_allclose(resnet.features(pictures, group="layer3"), seen["layer3"].mean(dim=(2, 3)), atol=1e-5)
    one = resnet.features(pictures / "1.png")
    np.testing.assert_allclose(one, resnet.features(pictures, batch_size=2)[1:2], atol=1e-5)


def test_a_network_over_words_gives_what_enters_its_output_layer(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    write_textcnn(tmp_path / "model")
    run = door.load(tmp_path / "model")
    found = run.features(["the good film", "bad"])
    assert found.shape == (2, 12)  # three widths of four feature maps
    with pytest.raises(RunError, match="one vector a text enters head, so that there is nothing to pool; leave it out"):
        run.features(["the good film"], pooling="mean")


# --- files --------------------------------------------------------------------------------------------------------------------


def test_the_file_keeps_the_columns_of_the_table_and_says_what_the_features_are(bert: door.Run, tmp_path: Path) -> None:
    table = pa.table({"id": pa.array([7, 8, 9], pa.int16()), "text": TEXTS, "features": ["its", "own", "column"]})
    pq.write_table(table, tmp_path / "in.parquet")
    assert bert.features_to(tmp_path / "out.parquet", tmp_path / "in.parquet", group="layer.1", pooling="first") == 3
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.select(table.column_names).equals(table.cast(written.select(table.column_names).schema))
    assert written.column_names == ["input", "id", "text", "features", "predicted features"]
    assert written["input"].to_pylist() == TEXTS
    assert written.schema.field("predicted features").type == pa.list_(pa.float32(), 16)
    np.testing.assert_array_equal(
        np.stack(written["predicted features"].to_numpy()), bert.features(TEXTS, group="layer.1", pooling="first")
    )
    about = json.loads(written.schema.metadata[b"hftl.features"])
    assert about == {"model": bert.path.name, "revision": None, "boundary": "layer.1", "pooling": "first"}


def test_rows_are_written_in_groups_and_tokens_that_are_not_pooled_are_those_of_each_text(
    bert: door.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text.Texts, "rows_at_once", 2)
    assert bert.features_to(tmp_path / "all.parquet", TEXTS, pooling="none") == 3
    file = pq.ParquetFile(tmp_path / "all.parquet")
    assert file.metadata.num_row_groups == 2
    for words, tokens in zip(TEXTS, file.read()["features"].to_pylist(), strict=True):
        np.testing.assert_allclose(np.array(tokens), states_of(bert, words)[-1], atol=1e-5)


def test_a_file_appears_whole_or_not_at_all(bert: door.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text.Texts, "rows_at_once", 2)
    steps = iter([None])
    monkeypatch.setattr(pq.ParquetWriter, "write_table", lambda *_: next(steps))
    with pytest.raises(StopIteration):
        bert.features_to(tmp_path / "out.parquet", TEXTS)
    assert list(tmp_path.iterdir()) == []


# --- checkpoints and the command ----------------------------------------------------------------------------------------------


def test_the_command_writes_features_of_the_samples_by_a_checkpoint_as_it_came(hftl: Hftl, tmp_path: Path) -> None:
    rows = Path(REVIEWS, "test.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    (tmp_path / "few.jsonl").write_text("\n".join(rows), encoding="utf-8")
    done = hftl("features", BERT_NANO, tmp_path / "few.jsonl", "--output", tmp_path / "out.parquet")
    assert done.code == 0 and "features of 3 inputs in" in done.out + done.err, done.err
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.column_names == ["input", *json.loads(rows[0]), "features"]
    np.testing.assert_allclose(
        np.stack(written["features"].to_numpy()),
        door.features(BERT_NANO, [json.loads(row)["text"] for row in rows]),
        atol=1e-5,
    )
    about = json.loads(written.schema.metadata[b"hftl.features"])
    assert about == {"model": "bert-nano", "revision": None, "boundary": "head", "pooling": "mean"}


@pytest.mark.slow
def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parent.parent / "docs" / "features.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        exec(compile(block, "<a block of docs/features.md>", "exec"), names)  # noqa: S102
    printed = capsys.readouterr().out.splitlines()
    assert 0.5 < float(printed[0]) < 1
    assert printed[-1] == "{'model': 'bert-nano', 'revision': None, 'boundary': 'layer.2', 'pooling': 'first'}"
    assert printed[-1] in page


def refused(hftl: Hftl, *arguments: Any) -> str:
    done = hftl("features", *arguments)
    assert done.code == 2 and "Traceback" not in done.err
    return " ".join(done.err.split())


def test_mistakes_are_one_message_with_the_way_out(hftl: Hftl, bert: door.Run, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert 'no layer group "layer.l". Did you mean' in refused(hftl, bert.path, "A text.", "--output", out, "--from", "layer.l")
    assert "what enters embeddings is the input itself. Later groups: layer.0, layer.1, head" in refused(
        hftl, bert.path, "A text.", "--output", out, "--from", "embeddings"
    )
    assert 'features are not written to ".csv" files' in refused(hftl, bert.path, "A text.", "--output", tmp_path / "out.csv")
    assert "no such file or folder" in refused(hftl, bert.path, tmp_path / "nowhere.txt", "--output", out)
    assert "no folder here" in refused(hftl, "no-such-model", "A text.", "--output", out)
    assert not out.exists()
    out.write_text("mine")
    assert "nothing is written over" in refused(hftl, bert.path, "A text.", "--output", out)
    assert out.read_text() == "mine"


def test_what_does_not_fit_the_kind_of_model_is_refused(bert: door.Run, resnet: door.Run, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(HftlError, match=r"first is for texts; of a picture there is the mean over all places\. Leave it out"):
        resnet.features(pictures, pooling="first")
    with pytest.raises(HftlError, match="no such file or folder"):
        resnet.features(["A text."])
    with pytest.raises(HftlError, match=r"0\.png"):
        bert.features(pictures / "0.png")
    with pytest.raises(RunError, match=r"`hftl\.features_to` writes them into a file"):
        bert.features(TEXTS, pooling="none")  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r'no "men"\. Did you mean "mean"'):
        bert.features(TEXTS, pooling="men")  # type: ignore[arg-type]


def test_a_group_that_needs_more_than_what_enters_it_is_refused(bert: door.Run) -> None:
    """A model whose second layer also takes what the first one gives, past what enters it."""
    model: Any = bert.model
    one, other = model.bert.encoder.layer
    given: list[torch.Tensor] = []
    hooks = [
        one.register_forward_hook(lambda *call: given.append(call[-1])),
        other.register_forward_hook(lambda *call: call[-1] + given[-1]),
    ]
    try:
        with pytest.raises(RunError, match=r"nothing can be taken before layer\.1.*leave it out: what enters the head"):
            bert.features(TEXTS, group="layer.1")
    finally:
        for hook in hooks:
            hook.remove()
