"""Predicting asks the content how inputs become samples, and loads what the content needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small import BERT_NANO
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from hftl.inference import Predictor

TEXTS = ["a fine film", "dull, and far too long"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of texts that no run knows, as `save_pretrained` writes it; its head is random."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    AutoModelForSequenceClassification.from_pretrained(BERT_NANO, num_labels=3).save_pretrained(folder)
    AutoTokenizer.from_pretrained(BERT_NANO).save_pretrained(folder)
    return folder


def test_a_folder_without_a_run_is_read_by_the_defaults_and_answers_as_its_model_does(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text(f'n,text\n1,{TEXTS[0]}\n2,"{TEXTS[1]}"\n')
    answers = Predictor(folder).predict([*TEXTS, tmp_path / "new.csv"])
    assert [answer.input for answer in answers] == TEXTS * 2
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.inference_mode():
        expected = [model(**tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0] for text in TEXTS]
    for answer, probabilities in zip(answers, expected * 2, strict=True):
        assert list(answer.probabilities.values()) == pytest.approx(probabilities.tolist(), abs=1e-5)
        assert answer.label == f"LABEL_{int(probabilities.argmax())}" and answer.probability == max(answer.probabilities.values())


def test_texts_are_predicted_without_what_pictures_need(folder: Path) -> None:
    code = """
import json, sys
from pathlib import Path
from hftl.inference import Predictor
answers = Predictor(Path(sys.argv[1])).predict(["a fine film"])
print(json.dumps([len(answers), [name for name in ("cv2", "albumentations", "timm", "hftl.data.image") if name in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=120, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == [1, []]
