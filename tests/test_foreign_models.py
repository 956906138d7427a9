"""Model folders that somebody else wrote: nothing in them runs code, leaves the folder, fills the memory or ends in a traceback.

Every attempt is a saved model of one of the families with one thing changed, as it might come from a repository on the Hub.
"""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from small import OLDER_TRANSFORMERS, Bomb, rewrite
from small_models import MOODS, WRITERS, build_on, recipes_refusal, refusal

from hftl.errors import RecipeError
from hftl.models import glove, load_classifier, save_classifier, transformer, vision
from hftl.models.family import Classifier
from hftl.recipe import Timm, Transformer


def remove(folder: Path, key: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config[key]
    (folder / "config.json").write_text(json.dumps(config))


def in_pretrained_cfg(folder: Path, **values: Any) -> None:
    found = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
    rewrite(folder / "config.json", pretrained_cfg={**found, **values})


@pytest.mark.parametrize("name", WRITERS)
def test_the_folders_are_good_as_they_are(saved: dict[str, Path], name: str) -> None:
    assert load_classifier(saved[name]).model.config.id2label == dict(enumerate(MOODS))


# --- code -----------------------------------------------------------------------------------------------------------------------

CODE = """
from pathlib import Path
Path({marker!r}).write_text("this ran")
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
class Config(BertConfig): pass
class Model(BertForSequenceClassification): pass
class Tokenizer(PreTrainedTokenizerFast): pass
"""


def with_code(folder: Path, marker: Path, model_type: str) -> None:
    (folder / "evil.py").write_text(CODE.format(marker=str(marker)))
    auto_map = {
        "AutoConfig": "evil.Config",
        "AutoModelForSequenceClassification": "evil.Model",
        "AutoModelForImageClassification": "evil.Model",
        "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"],
    }
    rewrite(folder / "config.json", model_type=model_type, auto_map=auto_map)


LOAD = """
import sys
from pathlib import Path
from hftl.errors import HftlError
from hftl.models import load_classifier, transformer
from hftl.recipe import Transformer
for folder in sys.argv[1:]:
    for load in (lambda: load_classifier(Path(folder)), lambda: transformer.build(Transformer(checkpoint=folder), ["a", "b"])):
        try:
            print(type(load().model).__module__)
        except HftlError as error:
            print("refused:", " ".join(str(error).split()))
"""


def test_code_in_a_folder_never_runs_and_nobody_is_asked(saved: dict[str, Path], tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    folders = {}
    for name, origin, model_type in (("known", "bert", "bert"), ("unknown", "bert", "evil"), ("ours", "textcnn", "hftl_textcnn")):
        folders[name] = shutil.copytree(saved[origin], tmp_path / name)
        with_code(folders[name], marker, model_type)
    folders["elsewhere"] = shutil.copytree(saved["bert"], tmp_path / "elsewhere")
    rewrite(folders["elsewhere"] / "config.json", model_type="evil", auto_map={"AutoConfig": "somebody/evil--evil.Config"})
    # A process of its own: what is at stake happens at import, and a question would be asked at its closed standard input.
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *map(str, folders.values())],
        env={**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert not marker.exists()
    known, known_built, unknown, unknown_built, ours, ours_built, elsewhere, elsewhere_built = done.stdout.splitlines()
    assert known == known_built == "transformers.models.bert.modeling_bert"
    assert ours == ours_built == "hftl.models.glove_modeling"
    for line in (unknown, unknown_built, elsewhere, elsewhere_built):
        assert line.startswith("refused:") and 'hftl runs no code of a checkpoint ("auto_map" in config.json)' in line
    assert "trust_remote_code" not in done.stdout
    assert "y/N" not in done.stdout + done.stderr


def test_a_tokenizer_with_code_of_its_own_is_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    for name in ("bert", "textcnn"):
        folder = shutil.copytree(saved[name], tmp_path / name)
        (folder / "evil.py").write_text(CODE.format(marker=str(tmp_path / "marker")))
        rewrite(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})
        message = refusal(folder)
        assert "tokenizer_config.json" in message and '"auto_map"' in message and "evil.Tokenizer" in message
        assert "hftl runs no code of a checkpoint" in message
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", ["EvilTokenizer", "AutoModelForCausalLM", "__file__", "pipeline", "", 7, ["BertTokenizer"]])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_a_tokenizer_class_that_transformers_does_not_have_is_refused(
    saved: dict[str, Path], name: object, file: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    rewrite(folder / file, tokenizer_class=name)
    message = refusal(folder)
    assert f'"tokenizer_class": {json.dumps(name)} in {file}' in message
    assert message.splitlines()[1:] == recipes_refusal(folder).splitlines()[2:]  # the same way out


def test_a_template_of_a_tokenizer_is_never_rendered(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    # Rendered it would raise, and unsandboxed it would write the marker.
    write = "{{ cycler.__init__.__globals__.os.system('touch " + str(tmp_path / "marker") + "') }}{{ raise_exception('rendered') }}"
    rewrite(folder / "tokenizer_config.json", chat_template=write)
    (folder / "chat_template.jinja").write_text(write)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text(write)
    classifier = load_classifier(folder)
    tokenizer: Any = classifier.preprocessor
    assert tokenizer(["good film"])["input_ids"]
    save_classifier(classifier, tmp_path / "again")
    load_classifier(tmp_path / "again")
    assert not (tmp_path / "marker").exists()


# --- weights --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_a_pickle_is_not_opened(saved: dict[str, Path], name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(saved[name], tmp_path / "model")
    (folder / "model.safetensors").unlink()
    for file in ("pytorch_model.bin", "model.bin", "training_args.bin", "optimizer.pt", "model.safetensors.bin"):
        with (folder / file).open("wb") as stream:
            pickle.dump(Bomb(tmp_path / "marker"), stream)
    assert "safetensors" in refusal(folder)
    if name != "textcnn":
        assert "safetensors" in recipes_refusal(folder)
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")  # a pickle by another name
    assert "has no weights that can be read in model.safetensors" in refusal(folder)
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "file", ["../other/model.safetensors", "/etc/passwd", "..\\model.safetensors", "pytorch_model.bin", "sub/model.safetensors", 7]
)
def test_an_index_names_safetensors_of_the_folder_only(saved: dict[str, Path], file: object, tmp_path: Path) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    (tmp_path / "other").mkdir()
    (folder / "model.safetensors").rename(tmp_path / "other" / "model.safetensors")
    names = load_file(tmp_path / "other" / "model.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, file)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    message = refusal(folder)
    assert f"{json.dumps(file)} in model.safetensors.index.json, which is no safetensors file of this folder" in message
    assert f"{json.dumps(file)} in model.safetensors.index.json" in recipes_refusal(folder)


def test_weights_in_several_files_are_read(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(weights)}
    for file in set(files.values()):
        save_file({name: weights[name] for name in weights if files[name] == file}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))
    loaded = load_classifier(folder).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in weights.items())
    (folder / "model-00002-of-00002.safetensors").unlink()
    assert "has no model-00002-of-00002.safetensors" in refusal(folder)


@pytest.mark.parametrize("index", ["[]", "{}", '{"weight_map": []}', '{"weight_map": {}, "metadata": 3}'])
def test_an_index_that_is_none_is_refused(saved: dict[str, Path], index: str, tmp_path: Path) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    (folder / "model.safetensors.index.json").write_text(index)
    assert "model.safetensors.index.json" in refusal(folder)


def test_an_adapter_is_not_followed_to_its_model(saved: dict[str, Path], tmp_path: Path) -> None:
    for name in WRITERS:
        folder = shutil.copytree(saved[name], tmp_path / name)
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "somebody/evil"}))
        message = refusal(folder)
        assert 'is an adapter (adapter_config.json) of another model, "base_model_name_or_path": "somebody/evil"' in message
        assert "merge_and_unload" in message


def test_a_distributed_checkpoint_is_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    shutil.copy(folder / "model.safetensors", folder / "shard-00001-model-00001-of-00001.safetensors")
    assert "holds a distributed checkpoint (shard-00001-model-00001-of-00001.safetensors)" in refusal(folder)


# --- config.json ----------------------------------------------------------------------------------------------------------------

NOT_JSON_OBJECTS = {
    "a list": b"[1, 2]",
    "a text": b'"bert"',
    "null": b"null",
    "empty": b"",
    "half": b'{"model_type": "bert"',
    "deep brackets": b"[" * 200_000,
    "deep objects": b'{"a":' * 500 + b"1" + b"}" * 500,
    "deep values": b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}",
    "not UTF-8": b'{"model_type": "b\xff\xfert"}',
    "a long number": b'{"hidden_size": ' + b"9" * 5000 + b"}",
    "half a character": b'{"a": "\\ud83d"}',
}


@pytest.mark.parametrize("content", NOT_JSON_OBJECTS.values(), ids=NOT_JSON_OBJECTS)
@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "special_tokens_map.json"])
def test_a_file_that_is_no_json_object_is_refused(saved: dict[str, Path], content: bytes, file: str, tmp_path: Path) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    (folder / file).write_bytes(content)
    assert file in refusal(folder)
    assert file in recipes_refusal(folder)


def test_a_file_of_gigabytes_is_not_read(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    with (folder / "config.json").open("r+b") as stream:
        stream.truncate(3_000_000_000)  # a hole, which takes no disk
    assert "has a config.json of 3,000,000,000 bytes" in refusal(folder)


NONE_TO_MAKE = "has a config.json of which transformers can make no model"
NOT_READ = "cannot be read as a transformer"
NUMBERED = 'Class names under "0", "1", "2" and so on were expected, none left out.'
FROM_THE_HUB = "It names code that transformers may fetch from the Hub. Leave the key out."
WRONG_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "size": ({"hidden_size": 10**9}, "parameters, and weights of 5,251"),
    "size, with fitting heads": ({"hidden_size": 10**9, "num_attention_heads": 1}, "parameters, and weights of 5,251"),
    "words": ({"vocab_size": 10**10}, "describes 160,000,00"),
    "words, of 6 GB": ({"vocab_size": 10**8}, "describes 1,600,00"),
    "inner size": ({"intermediate_size": 10**9}, "describes 66,000,00"),
    "positions": ({"max_position_embeddings": 10**9}, "parameters, and weights of 5,251"),
    "token types": ({"type_vocab_size": 10**15}, "parameters, and weights of 5,251"),
    "layers": ({"num_hidden_layers": 10**9}, 'has "num_hidden_layers": 1,000,000,000 in config.json, and 41 tensors in its'),
    "layers, floating": ({"num_hidden_layers": 1e300}, 'has "num_hidden_layers": 1e+300'),
    "classes": ({"id2label": None, "label2id": None, "num_labels": 10**9}, 'has "num_labels": 1000000000'),
    "negative size": ({"hidden_size": -16}, NONE_TO_MAKE),
    "negative layers": ({"num_hidden_layers": -1}, "BertForSequenceClassification has no layers at all"),
    "negative classes": ({"id2label": None, "label2id": None, "num_labels": -3}, 'has "num_labels": -3'),
    "no heads": ({"num_attention_heads": 0}, NONE_TO_MAKE),
    "no words": ({"vocab_size": 0}, NONE_TO_MAKE),
    "a text for a size": ({"hidden_size": "16"}, "Field 'hidden_size' expected int"),
    "a list for a size": ({"hidden_size": [16]}, "Field 'hidden_size' expected int"),
    "a fraction for a size": ({"hidden_size": 16.5}, "Field 'hidden_size' expected int"),
    "null for a size": ({"hidden_size": None}, "Field 'hidden_size' expected int"),
    "a number beyond 64 bits": ({"hidden_size": 10**400}, NONE_TO_MAKE),
    "a spread below zero": ({"initializer_range": -0.5}, 'has "initializer_range": -0.5 in config.json'),
    "a spread that is no number": ({"initializer_range": float("nan")}, 'has "initializer_range": NaN in config.json'),
    "an activation of code": ({"hidden_act": "__import__('os').system('true')"}, NONE_TO_MAKE),
    "a dtype that is a function": ({"dtype": "load"}, NOT_READ),
    "padding beyond the table": ({"pad_token_id": 10**6}, "has a "),
    "padding below the table": ({"pad_token_id": -5}, "the tokenizer pads with token 0, the model with -5"),
    "padding with a text": ({"pad_token_id": "x"}, NOT_READ),
    "labels in a list": ({"id2label": ["a", "b", "c"]}, NUMBERED),
    "labels under words": ({"id2label": {"a": "a", "b": "b", "c": "c"}}, NUMBERED),
    "a type that is a number": ({"model_type": 3}, 'has "model_type": 3 in config.json; a name was expected'),
    "a type that is a list": ({"model_type": ["bert"]}, 'has "model_type": ["bert"] in config.json; a name was expected'),
    "no such type": ({"model_type": "bort"}, "`bort`"),
    "a type with other weights": ({"model_type": "gpt2"}, "missing: "),
    "an encoder-decoder": ({"model_type": "t5"}, NOT_READ),
    "a method that is a number": ({"to_dict": 3}, NOT_READ),
    "a method that is a text": ({"get_text_config": "x"}, NOT_READ),
    "auto_map that is a text": ({"auto_map": "AutoConfig"}, NOT_READ),
    "auto_map that is a number": ({"auto_map": 3}, NOT_READ),
    "auto_map of numbers": ({"auto_map": {"AutoConfig": 3}}, NOT_READ),
    "weights elsewhere": ({"transformers_weights": "../m.safetensors"}, 'has "transformers_weights": "../m.safetensors"'),
    "quantised": ({"quantization_config": {"quant_method": "fp8"}}, 'has "quantization_config": {"quant_method": "fp8"}'),
    "a kernel": ({"attn_implementation": "somebody/evil"}, FROM_THE_HUB),
    "a kernel, privately": ({"_attn_implementation": "somebody/evil"}, FROM_THE_HUB),
    "a kernel, in an object": ({"attn_implementation": {"": "somebody/evil"}}, FROM_THE_HUB),
    "a kernel for experts": ({"experts_implementation": "somebody/evil"}, FROM_THE_HUB),
    "kernels": ({"kernel_config": {"RMSNorm": "somebody/evil"}}, 'has "kernel_config": {"RMSNorm": "somebody/evil"}'),
    "layers of their own sizes": ({"per_layer_config": {"0": {"hidden_size": 10**9}}}, NONE_TO_MAKE),
}


@pytest.mark.parametrize(("values", "message"), WRONG_CONFIGS.values(), ids=WRONG_CONFIGS)
def test_a_config_that_makes_no_sense_is_refused_before_there_is_memory_behind_it(
    saved: dict[str, Path], values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    rewrite(folder / "config.json", **values)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert message in refusal(folder)
    assert message in recipes_refusal(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes


WRONG_CLASSES: dict[str, tuple[dict[str, Any], str]] = {
    "a gap": ({"id2label": {"0": "a", "2": "b", "3": "c"}}, NUMBERED),
    "numbers": ({"id2label": {"0": 1, "1": 2, "2": 3}}, "each class needs a name, which is a text"),
    "another count": ({"num_labels": 7}, 'has "num_labels": 7 in config.json, and 3 names in "id2label"'),
}


@pytest.mark.parametrize(("values", "message"), WRONG_CLASSES.values(), ids=WRONG_CLASSES)
def test_classes_that_make_no_sense_are_refused_with_their_head_and_do_not_count_where_it_is_replaced(
    saved: dict[str, Path], values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    rewrite(folder / "config.json", **values)
    assert message in refusal(folder)
    if OLDER_TRANSFORMERS and "num_labels" not in values and 1 in values["id2label"].values():
        with pytest.raises(RecipeError, match="cannot be read as a transformer"):  # which checks the names that will be replaced
            build_on(folder)
        return
    built = build_on(folder)
    assert built.model.config.id2label == {0: "yes", 1: "no"}
    assert built.facts["new_parameters"] == ["classifier.bias", "classifier.weight"]


def test_random_weights_of_a_foreign_config_are_no_larger_than_the_machine(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "bert")
    (folder / "model.safetensors").unlink()
    rewrite(folder / "config.json", vocab_size=10**13)
    with pytest.raises(RecipeError, match=r"describes 160,000,000,00.* parameters: 640,000 GB of float32"):
        transformer.build(Transformer(checkpoint=str(folder), pretrained=False), ["yes", "no"])
    folder = shutil.copytree(saved["resnet"], tmp_path / "resnet")
    (folder / "model.safetensors").unlink()
    in_model_args(folder, stem_width=10**6)
    with pytest.raises(RecipeError, match=r"GB of float32"):
        vision.build(Timm(checkpoint=str(folder), pretrained=False), ["yes", "no"], image_size=None)


@pytest.mark.parametrize("names", [["a", "b"], [str(i) for i in range(9)]])
def test_class_names_that_the_weights_do_not_have_are_refused(saved: dict[str, Path], names: list[str], tmp_path: Path) -> None:
    for family in ("bert", "textcnn"):
        folder = shutil.copytree(saved[family], tmp_path / family)
        rewrite(folder / "config.json", id2label=dict(enumerate(names)))
        assert "is not complete; missing: " in refusal(folder)
    folder = shutil.copytree(saved["resnet"], tmp_path / "resnet")
    rewrite(folder / "config.json", label_names=names)
    assert f"has 3 classes and {len(names)} label_names in config.json" in refusal(folder)


@pytest.mark.parametrize("family", WRITERS)
def test_two_classes_of_one_name_are_refused(saved: dict[str, Path], family: str, tmp_path: Path) -> None:
    folder = shutil.copytree(saved[family], tmp_path / "model")
    names = ["sad", "glad", "sad"]
    rewrite(folder / "config.json", **({"label_names": names} if family == "resnet" else {"id2label": dict(enumerate(names))}))
    assert 'two classes are called "sad" in config.json' in refusal(folder)


def test_a_message_does_not_speak_to_the_terminal(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    for values in ({"model_type": "\x1b[2Jbert"}, {"num_labels": "\x1b]0;title\x07"}, {"id2label": {"\u202e\x9b": "a"}}):
        shutil.copy(saved["bert"] / "config.json", folder)
        rewrite(folder / "config.json", **values)
        assert all(line.isprintable() for line in refusal(folder).splitlines())


GLOVE_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "words": ({"vocab_size": 10**10}, "parameters, and weights of "),
    "width": ({"vector_dim": 10**10}, "parameters, and weights of "),
    "second table": ({"trainable_dim": 10**10}, "parameters, and weights of "),
    "channels": ({"channels": 10**12}, "parameters, and weights of "),
    "kernels": ({"kernel_widths": [10**12]}, "parameters, and weights of "),
    "kernels that are none": ({"kernel_widths": 3}, NOT_READ),
    "negative kernels": ({"kernel_widths": [-3, 4, 5]}, NONE_TO_MAKE),
    "words that are a text": ({"vocab_size": "6"}, NOT_READ),
    "no words": ({"vocab_size": 0, "pad_token_id": 0}, "must be among the 0 words"),
    "unknown words outside the table": ({"unk_token_id": 10**6}, "must be among the 6 words"),
    "vectors that are no name": (
        {"vectors": {"a": 1}},
        "has \"vectors\": {'a': 1} in config.json; the name of a file was expected",
    ),
    "dropout": ({"dropout": 7}, NONE_TO_MAKE),
    "another network": ({"model_type": "hftl_bilstm"}, "is not complete; missing: "),
    "layers": ({"model_type": "hftl_bilstm", "layers": 10**9}, 'has "layers": 1,000,000,000 in config.json'),
    "pooling": ({"model_type": "hftl_bilstm", "pooling": "median"}, 'pooling is "median"'),
    "no such network": ({"model_type": "hftl_gru"}, "hftl runs no code of a checkpoint"),
}


@pytest.mark.parametrize(("values", "message"), GLOVE_CONFIGS.values(), ids=GLOVE_CONFIGS)
def test_a_glove_config_that_makes_no_sense_is_refused(
    saved: dict[str, Path], values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved["textcnn"], tmp_path / "model")
    rewrite(folder / "config.json", **values)
    assert message in refusal(folder)


# --- tokenizer ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vocab_file", "/etc/passwd"),
        ("merges_file", "../../merges.txt"),
        ("chat_template_file", "https://example.org/template.jinja"),
        ("spm_file", "..\\spiece.model"),
        ("source_spm", None),
        ("any_other_file", "C:\\vocab.txt"),
        ("any_other_file", 7),
        ("any_other_file", {"a": "/etc/passwd"}),
        ("fast_tokenizer_files", ["tokenizer.json", "../tokenizer.4.0.0.json"]),
        ("gguf_file", "model.gguf"),
        ("init_inputs", ["/etc/passwd"]),
    ],
)
def test_a_tokenizer_that_names_a_file_elsewhere_is_refused(
    saved: dict[str, Path], file: str, key: str, value: object, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    rewrite(folder / file, **{key: value})
    if value is None:
        load_classifier(folder)
        return
    for message in (refusal(folder), recipes_refusal(folder)):
        assert f'"{key}": {json.dumps(value)} in {file}' in message
        assert "Leave the key out" in message


def test_paths_of_the_folder_and_nothing_are_allowed(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    rewrite(folder / "tokenizer_config.json", tokenizer_file="tokenizer.json", vocab_file=None, name_or_path="/home/somebody/bert")
    load_classifier(folder)


def vocabulary(classifier: Classifier) -> dict[str, int]:
    tokenizer: Any = classifier.preprocessor
    words: dict[str, int] = tokenizer.get_vocab()
    return words


def test_paths_that_older_releases_left_behind_are_neither_followed_nor_saved(saved: dict[str, Path], tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    glove.make_tokenizer(["other", "words"]).save_pretrained(elsewhere)
    (elsewhere / "added_tokens.json").write_text('{"added": 3}')
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    rewrite(
        folder / "tokenizer_config.json",
        special_tokens_map_file="/home/author/.cache/huggingface/transformers/abc.def",
        added_tokens_file=str(elsewhere / "added_tokens.json"),
    )
    rewrite(folder / "special_tokens_map.json", added_tokens_file=str(elsewhere / "added_tokens.json"))
    words = vocabulary(load_classifier(saved["bert"]))
    for classifier in (load_classifier(folder), build_on(folder)):
        assert vocabulary(classifier) == words
        save_classifier(classifier, tmp_path / "again")
        saved_again = tmp_path / "again" / "tokenizer_config.json"
        assert not {"special_tokens_map_file", "added_tokens_file"} & json.loads(saved_again.read_text()).keys()


def test_a_tokenizer_file_of_the_special_tokens_is_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    rewrite(folder / "special_tokens_map.json", tokenizer_file="/etc/passwd")  # which transformers would put over the folder's
    assert '"tokenizer_file": "/etc/passwd" in special_tokens_map.json' in refusal(folder)


TOKENIZERS: dict[str, Callable[[Any], object]] = {
    "no model": lambda found: found.pop("model"),
    "another model": lambda found: found["model"].update(type="Evil"),
    "words that are a list": lambda found: found["model"].update(vocab=["a"]),
    "numbers that are texts": lambda found: found["model"].update(vocab={"a": "b"}),
    "negative numbers": lambda found: found["model"].update(vocab={"a": -1}),
    "numbers beyond the table": lambda found: found["model"]["vocab"].update(film=10**6),
    "numbers beyond 32 bits": lambda found: found["model"]["vocab"].update(film=2**40),
    "normalizer": lambda found: found.update(normalizer={"type": "Evil"}),
    "a regular expression that is none": lambda found: found.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "("}}),
    "added tokens that are a number": lambda found: found.update(added_tokens=3),
    "padding": lambda found: found.update(padding={"strategy": 3}),
    "truncation": lambda found: found.update(truncation={"max_length": -1}),
}


@pytest.mark.parametrize("change", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("family", ["bert", "textcnn"])
def test_a_tokenizer_that_makes_no_sense_is_refused(
    saved: dict[str, Path], family: str, change: Callable[[Any], object], tmp_path: Path
) -> None:
    folder = shutil.copytree(saved[family], tmp_path / "model")
    found = json.loads((folder / "tokenizer.json").read_text())
    change(found)
    (folder / "tokenizer.json").write_text(json.dumps(found))
    assert "tokenizer" in refusal(folder)


@pytest.mark.parametrize("content", NOT_JSON_OBJECTS.values(), ids=NOT_JSON_OBJECTS)
def test_a_tokenizer_file_that_is_no_json_is_refused(saved: dict[str, Path], content: bytes, tmp_path: Path) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    (folder / "tokenizer.json").write_bytes(content)
    assert "has no tokenizer that can be read" in refusal(folder)


WRONG_TOKENIZERS: dict[str, dict[str, Any]] = {
    "length that is a text": {"model_max_length": "5"},
    "length of nothing": {"model_max_length": 0},
    "length of less": {"model_max_length": -5},
    "length that is no number": {"model_max_length": float("nan")},
    "length that is true": {"model_max_length": True},
    "padding that is a list": {"pad_token": ["<pad>"]},
    "padding that is a number": {"pad_token": 5},
    "padding on no side": {"padding_side": "middle"},
    "special tokens that are a number": {"extra_special_tokens": 5},
    "added tokens that are a list": {"added_tokens_decoder": ["a"]},
    "added tokens without a number": {"added_tokens_decoder": {"x": {"content": "a"}}},
    "added tokens that are texts": {"added_tokens_decoder": {"0": "a"}},
    "an object for a tokenizer": {"tokenizer_object": "evil"},
    "the argument of a call": {"cls": 3, "self": 4},
}


@pytest.mark.parametrize("values", WRONG_TOKENIZERS.values(), ids=WRONG_TOKENIZERS)
def test_settings_of_a_tokenizer_that_make_no_sense_are_refused(
    saved: dict[str, Path], values: dict[str, Any], tmp_path: Path
) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    rewrite(folder / "tokenizer_config.json", **values)
    if OLDER_TRANSFORMERS and "tokenizer_object" in values:
        pytest.skip("an older transformers does not look at it")
    assert "token" in refusal(folder)
    assert "token" in recipes_refusal(folder)


# --- links ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", WRITERS)
def test_a_link_that_leaves_the_folder_is_refused(saved: dict[str, Path], family: str, tmp_path: Path) -> None:
    good = shutil.copytree(saved[family], tmp_path / "good")
    folder = tmp_path / "model"
    for file in sorted(os.listdir(good)):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(good, folder)
        (folder / file).unlink()
        (folder / file).symlink_to(f"../good/{file}")
        message = refusal(folder)
        assert f"has a link that leaves the folder: {file} -> ../good/{file}" in message
        assert "Put a copy of the file in its place." in message
        (folder / file).unlink()
        (folder / file).symlink_to("/nowhere/at/all")
        assert file in refusal(folder) or file == "config.json"


def test_a_linked_folder_of_templates_and_a_link_in_a_circle_are_refused(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    (folder / "additional_chat_templates").symlink_to("/etc")
    assert "has a link that leaves the folder: additional_chat_templates -> /etc" in refusal(folder)
    (folder / "additional_chat_templates").unlink()
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "a.jinja").symlink_to("/etc/passwd")
    assert "has a link that leaves the folder: additional_chat_templates/a.jinja -> /etc/passwd" in refusal(folder)
    shutil.rmtree(folder / "additional_chat_templates")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to("tokenizer.json")
    assert "tokenizer" in refusal(folder)


def test_links_inside_the_folder_and_a_link_to_it_are_allowed(saved: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(saved["bert"], tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "weights")
    (folder / "model.safetensors").symlink_to("weights")
    (tmp_path / "link").symlink_to(folder)
    load_classifier(tmp_path / "link")


def as_snapshot(folder: Path, cache: Path) -> Path:
    """A folder as the Hub's cache holds it: a snapshot of links into the blobs of its repository."""
    repository = cache / "models--somebody--something"
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = repository / "snapshots" / commit
    for place in (snapshot, repository / "blobs", repository / "refs"):
        place.mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for file in folder.iterdir():
        shutil.copy(file, repository / "blobs" / f"blob-of-{file.name}")
        (snapshot / file.name).symlink_to(f"../../blobs/blob-of-{file.name}")
    return snapshot


@pytest.mark.parametrize("family", WRITERS)
def test_a_snapshot_of_the_hub_may_be_made_of_links(saved: dict[str, Path], family: str, tmp_path: Path) -> None:
    snapshot = as_snapshot(saved[family], tmp_path / "cache")
    load_classifier(snapshot)
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(saved[family] / "config.json")
    assert "has a link that leaves the folder: config.json -> " in refusal(snapshot)


def test_a_model_of_the_hub_is_checked_like_a_folder(
    saved: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    snapshot = as_snapshot(saved["bert"], tmp_path / "cache")
    spec = Transformer(checkpoint="somebody/something")
    assert transformer.build(spec, ["yes", "no"]).facts["base_model"] == "somebody/something"
    for file, values, message in (
        ("tokenizer_config.json", {"vocab_file": "/etc/passwd"}, '"vocab_file": "/etc/passwd" in tokenizer_config.json'),
        ("special_tokens_map.json", {"vocab_file": "/etc/passwd"}, '"vocab_file": "/etc/passwd" in special_tokens_map.json'),
        ("adapter_config.json", {"base_model_name_or_path": "/etc"}, "is an adapter (adapter_config.json) of another model"),
        ("config.json", {"hidden_size": 10**9}, "parameters, and weights of 5,251"),
        ("config.json", {"model_type": "evil", "auto_map": {"AutoConfig": "a--b.C"}}, "hftl runs no code of a checkpoint"),
    ):
        old = (snapshot / file).read_text() if (snapshot / file).exists() else None
        rewrite(snapshot / file, **values)
        with pytest.raises(RecipeError) as caught:
            transformer.build(spec, ["yes", "no"])
        assert '"somebody/something" ' in str(caught.value) and message in str(caught.value)
        (snapshot / file).unlink() if old is None else (snapshot / file).write_text(old)
    transformer.build(spec, ["yes", "no"])


# --- timm -----------------------------------------------------------------------------------------------------------------------


def in_model_args(folder: Path, **values: Any) -> None:
    found = json.loads((folder / "config.json").read_text())["model_args"]
    rewrite(folder / "config.json", model_args={**found, **values})


RESERVED = {
    "checkpoint_path": "marker.pth",
    "pretrained": True,
    "pretrained_cfg": {"url": "https://example.org/evil.pth"},
    "pretrained_cfg_overlay": {"file": "marker.pth", "custom_load": True},
    "pretrained_strict": False,
    "pretrained_model_args": {},
    "cache_dir": "elsewhere",
    "scriptable": True,
    "exportable": True,
    "no_jit": True,
    "model_name": "resnet18",
    "model_cls": "os.system",
    "variant": "resnet18",
    "kwargs_filter": ["a"],
    "features_only": True,
    "feature_cls": "hook",
    "out_indices": [0],
    "device": "cuda",
    "dtype": "float16",
}


@pytest.mark.parametrize(("key", "value"), RESERVED.items())
def test_arguments_of_timms_machinery_are_no_arguments_of_a_network(
    saved: dict[str, Path], key: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(saved["resnet"], tmp_path / "model")
    in_model_args(folder, **{key: value})
    monkeypatch.chdir(folder)
    with open("marker.pth", "wb") as stream:
        pickle.dump(Bomb(tmp_path / "marker"), stream)
    for message in (refusal(folder), recipes_refusal(folder)):
        assert f'has "{key}": ' in message and "among the model_args of config.json" in message
    assert not (tmp_path / "marker").exists()


def test_places_in_pretrained_cfg_are_not_visited(saved: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(saved["resnet"], tmp_path / "model")
    monkeypatch.chdir(folder)
    with open("marker.pth", "wb") as stream:
        pickle.dump(Bomb(tmp_path / "marker"), stream)
    places = {"file": "marker.pth", "url": "http://127.0.0.1:9/evil.pth", "hf_hub_id": "somebody/evil", "source": "local-dir"}
    in_pretrained_cfg(folder, custom_load=True, hf_hub_filename="evil.bin", state_dict={"a": 1}, **places)
    weights = load_classifier(folder).model.state_dict()
    expected = load_file(folder / "model.safetensors")
    assert all(torch.equal(weights[f"timm_model.{name}"], tensor) for name, tensor in expected.items())
    save_classifier(load_classifier(folder), tmp_path / "again")
    assert not any(str(value) in (tmp_path / "again" / "config.json").read_text() for value in places.values())
    assert not (tmp_path / "marker").exists()


TIMM_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "architecture elsewhere": ({"architecture": "hf-hub:somebody/evil"}, "does not know"),
    "architecture in a folder": ({"architecture": "local-dir:/etc"}, "does not know"),
    "architecture that is a list": ({"architecture": ["resnet18"]}, "a name was expected"),
    "another architecture": ({"architecture": "resnet34"}, "has weights that do not fit resnet34"),
    "a larger architecture": ({"architecture": "resnet152"}, "parameters, and weights of"),
    "arguments that are a list": ({"model_args": ["a"]}, 'has "model_args": '),
    "unknown argument": ({"model_args": {"colour": "red"}}, "timm cannot make test_resnet with {'colour': 'red'"),
    "width": ({"model_args": {"channels": 10**6}}, "timm cannot make"),
    "depth": ({"model_args": {"layers": [10**9, 1, 1, 1]}}, 'has "layers": 1,000,000,000 in config.json'),
    "stem": ({"model_args": {"stem_width": 10**5}}, "parameters, and weights of"),
    "stem beyond 64 bits": ({"model_args": {"stem_width": 10**9}}, "timm cannot make"),
    "negative stem": ({"model_args": {"stem_width": -1}}, "timm cannot make"),
    "a rate that is a path": ({"model_args": {"drop_rate": "/etc/passwd"}}, "test_resnet cannot be run as it is configured"),
    "classes": ({"num_classes": 10**9}, 'has "num_classes": 1000000000'),
    "other classes": ({"num_classes": 4, "label_names": list("abcd")}, "has weights that do not fit test_resnet"),
    "classes that are a text": ({"num_classes": "3"}, 'has "num_classes": "3"'),
    "no label names": ({"label_names": None}, "names no classes"),
    "label names that are a text": ({"label_names": "abc"}, 'has "label_names": "abc"'),
    "label names that are an object": ({"label_names": {"0": "a"}}, 'has "label_names": {"0": "a"}'),
    "label names that are numbers": ({"label_names": [1, 2, 3]}, 'has "label_names": [1, 2, 3]'),
    "no preprocessing": ({"pretrained_cfg": None}, "is no timm model"),
}
PREPROCESSING: dict[str, tuple[dict[str, Any], str]] = {
    "size": ({"input_size": [3, 10**6, 10**6]}, 'has "input_size": [3, 1000000, 1000000]'),
    "size that is a number": ({"input_size": 224}, 'has "input_size": 224'),
    "size of texts": ({"input_size": ["3", "64", "64"]}, 'has "input_size": '),
    "negative size": ({"input_size": [3, -64, 64]}, 'has "input_size": [3, -64, 64]'),
    "grey": ({"input_size": [1, 64, 64]}, "one number was expected, one a channel"),
    "two channels": ({"input_size": [2, 64, 64]}, "2 numbers were expected, one a channel"),
    "crop": ({"crop_pct": 1e-9}, 'has "crop_pct": 1e-09'),
    "crop that is a text": ({"crop_pct": "0.9"}, 'has "crop_pct": '),
    "deviation": ({"std": [0, 0, 0]}, 'has "std": [0, 0, 0]'),
    "mean": ({"mean": [1, 2]}, 'has "mean": [1, 2]'),
    "mean that is no number": ({"mean": [float("nan"), 0, 0]}, 'has "mean": '),
    "mean beyond any number": ({"mean": [10**400, 0, 0]}, 'has "mean": '),
    "interpolation": ({"interpolation": "evil"}, "of which timm can make no preprocessing"),
    "interpolation that is a list": ({"interpolation": [1]}, "of which timm can make no preprocessing"),
    "unknown": ({"colour": "red"}, "has weights that do not fit"),
    "offset": ({"label_offset": "1"}, "has weights that do not fit"),
}


@pytest.mark.parametrize(("values", "message"), TIMM_CONFIGS.values(), ids=TIMM_CONFIGS)
def test_a_timm_config_that_makes_no_sense_is_refused(
    saved: dict[str, Path], values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved["resnet"], tmp_path / "model")
    rewrite(folder / "config.json", **values)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert message in refusal(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kilobytes


@pytest.mark.parametrize(("values", "message"), PREPROCESSING.values(), ids=PREPROCESSING)
def test_preprocessing_that_makes_no_sense_is_refused(
    saved: dict[str, Path], values: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(saved["resnet"], tmp_path / "model")
    in_pretrained_cfg(folder, **values)
    assert message in refusal(folder)
    assert message in recipes_refusal(folder)
