"""Long texts, end to end: what stays of them in training is what is served, by hftl, by the lines of the card and before a push."""

from __future__ import annotations

from typing import Any

import datasets
import pytest
from small import quiet, write_rows

import hftl
from hftl.evaluation.serving import ServingSamples
from hftl.sharing.parity import check_serving
from hftl.sharing.publication import prepare

TEXT = "one two three four five six seven eight good nine bad ten"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> hftl.Run:
    folder = tmp_path_factory.mktemp("long")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / ".cache"))
        rows = [{"text": f"{row} {TEXT} {'good' if row % 2 else 'bad'}", "label": "ab"[row % 2]} for row in range(40)]
        recipe = hftl.Recipe(
            name="long",
            data=hftl.TextData(
                source=str(write_rows(folder / "train.csv", rows)), max_length=8, validation_fraction=0.2, truncate="head+tail"
            ),
            model=hftl.TextCNN(vectors="random:4", channels=4, min_count=1, kernel_widths=(1, 2)),
            stages={"all": hftl.Stage(unfreeze="all", lr=0.01, epochs=1)},
            run=hftl.RunSettings(batch_size=8, workers=0, precision="fp32"),
            card=hftl.Card(license="mit"),
        )
        return hftl.train(recipe, run_dir=folder / "run", console=quiet())


def test_both_ends_of_a_text_are_read_by_hftl_by_the_lines_of_the_card_and_before_a_push(run: hftl.Run) -> None:
    card = run.paths.card.read_text(encoding="utf-8")
    assert "by itself it would read the beginning alone, and answer differently" in card
    assert "The model reads the first and last 8 tokens of a text only; 100" in card
    assert "ids if len(ids) <= 8 else ids[:2] + ids[-6:]" in card and "pipeline(" not in card
    code = card.split("```python\n")[1].split("```")[0].replace("RUN/model", str(run.path / "model"))
    code = code.replace("Put a text here.", f"7 {TEXT} good")
    printed: list[Any] = []
    exec(code, {"print": lambda *values: printed.append(values)})  # noqa: S102  # the lines as a reader copies them
    expected, ends = run.predict([f"7 {TEXT} good", "7 one seven eight good nine bad ten good"])
    assert printed[0][1:] == (expected.label, pytest.approx(expected.probability, abs=1e-5))
    # Of 14 words 2 stay from the beginning and 6 from the end.
    assert run.predict(["7 one eight good nine bad ten good"])[0].probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    assert ends.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    assert check_serving(run.paths, prepare(run.paths, "me/long")).samples == len(ServingSamples.load(run.paths.serving).ids)
    assert "their middle is not read, 42.9 % of all tokens" in (run.path / "log.txt").read_text(encoding="utf-8")
