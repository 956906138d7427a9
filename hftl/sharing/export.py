"""A finished run as an ONNX file, compared with the saved model before anybody gets it.

The file takes what the model's own tokenizer or image processor gives, under the same names, and answers with `logits`. Batch and,
for texts, length are free. torch's exporter follows the model (`torch.export`); onnxruntime runs the file on the CPU, in float32.

Shapes: B examples, T tokens of the longest text in a batch, S pixels, K classes, D numbers of a word, H hidden units.
ONNX's LSTM and the order of its gates: https://onnx.ai/onnx/operators/onnx__LSTM.html
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import io
import json
import logging
import os
import shutil
import sys
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text
from torch import Tensor, nn
from torch.onnx import OnnxExporterError
from transformers import PreTrainedModel
from transformers.utils import logging as hub_logging

from hftl import wording
from hftl.errors import RunError, printable
from hftl.files import check_name, write_json
from hftl.models import family_saved_as, load_classifier
from hftl.models.family import Classifier
from hftl.recipe import Recipe, TextData
from hftl.run import RunDirectory
from hftl.sharing.publication import is_model_file
from hftl.sharing.usage import example, make_text, reading_of, tokenized, tokens_of
from hftl.terminal import Shown

FILE = "model.onnx"
OUTPUT = "logits"
LIBRARIES = ("onnx", "onnx_ir", "onnxruntime", "onnxscript")
"""What the extra `hftl[onnx]` brings."""

TOLERANCE = 1e-4
"""Largest difference of a logit from the saved model's, relative to max(1, |logit|)."""
SIZES = (1, 3, 8)
LENGTHS = (1, 2, 7)
"""In tokens, beside the longest that the model was trained to read; the first two are shorter than most kernels of a TextCNN."""
MOST_TOKENS = 4_096
"""Tokens of one compared batch, unless a single text is longer: the memory of attention grows with B * T * T."""

# Weights come in the .onnx file, and what serves it has no use for Python code.
SERVING_SUFFIXES = {".json", ".txt", ".model", ".jinja"}

# Their warnings are about optimizations that were left out, or about what is raised as well.
TALKATIVE = ("onnxscript.optimizer._constant_folding", "torch.export._trace", "torch.fx.experimental.symbolic_shapes")

Batch: TypeAlias = dict[str, Tensor]
"""Arguments of a model by name."""
Logits: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, repr=False)
class Export(Shown):
    """What was written, and how far it is from the saved model."""

    file: Path
    opset: int
    """Version of the ONNX operators that a runtime must know."""
    size: int
    """Bytes of graph and weights. From 2 GB on the weights lie in model.onnx.data beside `file`."""
    sha256: str
    """SHA-256 of `file`."""
    batches: int
    """How many were compared with the saved model."""
    largest_difference: float
    """Largest difference of a logit from the saved model's, over all batches; absolute."""
    usage: str = ""
    """Lines of Python that run the file, see `usage`."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(printable(f"{self.file}  {wording.size(self.size)}, opset {self.opset}, SHA-256 {self.sha256}"))
        difference = f"largest difference of a logit {self.largest_difference:.1g}"
        yield Text(f"{self.batches} batches compared with onnxruntime: {difference}\n")
        yield Text(printable(self.usage))


def export_onnx(run: RunDirectory, folder: Path) -> Export:
    """Write FOLDER/model.onnx with what serving needs beside it: config.json and the tokenizer's or image processor's files.

    The folder appears whole and checked, or not at all: in batches of several sizes and lengths its logits are those of the saved
    model (eval mode, float32), within `TOLERANCE`.

    Raises:
        RunError: the extra `onnx` is not installed, the folder is in use, there is no complete model in the run, torch cannot
            export it, or the file gives other logits than the saved model.
    """
    check_installed()
    return export_model(run.model, run.load_recipe(), folder)


def export_model(saved: Path, recipe: Recipe, folder: Path) -> Export:
    """`export_onnx` of a model folder, as `save_classifier` writes it, and the recipe that says what it reads.

    Raises:
        RunError: see `export_onnx`.
    """
    check_installed()
    check_name(folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise RunError(f"{folder}: nothing is written over; remove it, or name another folder")
    with _quiet():
        classifier = load_classifier(saved)
        model = classifier.model
        batches = batches_to_compare(recipe, classifier)
        expected = [saved_logits(model, batch) for batch in batches]
        beside = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        beside.mkdir(parents=True)
        try:
            file = beside / FILE
            opset = _write(model, recipe, batches[0], file)
            apart = compare(file, batches, expected)
            for path in saved.iterdir():
                if is_model_file(path.name) and path.suffix in SERVING_SUFFIXES and not path.name.endswith(".index.json"):
                    shutil.copy(path, beside)
            config = json.loads((beside / "config.json").read_text(encoding="utf-8"))
            if config.pop("auto_map", None):  # there is no code here, and transformers would ask whether to run it
                write_json(beside / "config.json", config)
            size = sum(path.stat().st_size for path in beside.glob(f"{FILE}*"))
            with file.open("rb") as stream:
                sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            beside.replace(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    done = Export(folder / FILE, opset, size, sha256, len(batches), apart)
    return replace(done, usage=usage(recipe, done))


def check_installed() -> None:
    """Refuse to begin where the extra is missing.

    Raises:
        RunError: it is.
    """
    absent = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if absent:
        raise RunError(f'ONNX needs what is not installed ({", ".join(absent)}): pip install "hftl[onnx]"')


def saved_logits(model: nn.Module, batch: Batch) -> Logits:
    """(B, K) of a model as transformers calls it."""
    with torch.no_grad():
        return cast(Logits, model(**batch).logits.numpy())


def compare(file: Path, batches: Sequence[Batch], expected: Sequence[Logits]) -> float:
    """Run an ONNX file on batches; the largest absolute difference of a logit from what was expected.

    Raises:
        RunError: the file cannot be run on one of them, or a logit differs by more than `TOLERANCE`.
    """
    session = Session(file)
    return max(difference(session.logits(batch), logits, shape_of(batch)) for batch, logits in zip(batches, expected, strict=True))


class Session:
    """An ONNX file in memory, ready to answer, on the CPU.

    Args:
        file: the file.
        threads: that one answer is computed with; None: as many as there are cores.

    Raises:
        RunError: onnxruntime cannot read it.
    """

    def __init__(self, file: Path, *, threads: int | None = None) -> None:
        import onnxruntime

        self._file, self._refused = file, _refusals()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised as well
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        except self._refused as error:
            raise RunError(f"onnxruntime cannot read {file.name}: {_one_line(error)}") from None

    @property
    def names(self) -> list[str]:
        """What it takes."""
        return [given.name for given in self._session.get_inputs()]

    def logits(self, batch: Mapping[str, Tensor]) -> Logits:
        """(B, K) of a batch.

        Raises:
            RunError: the file cannot be run on it.
        """
        try:
            [logits] = self._session.run([OUTPUT], {name: tensor.contiguous().numpy() for name, tensor in batch.items()})
        except self._refused as error:
            raise RunError(f"onnxruntime cannot run {self._file.name} on {shape_of(batch)}: {_one_line(error)}") from None
        return cast(Logits, logits)


def _refusals() -> tuple[type[Exception], ...]:
    """What onnxruntime raises over a file."""
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    named = (runtime.Fail, runtime.InvalidArgument, runtime.InvalidGraph, runtime.InvalidProtobuf, runtime.NotImplemented)
    return (*named, runtime.RuntimeException)


def shape_of(batch: Mapping[str, Tensor]) -> str:
    """ "a batch of 3 x 128"."""
    return f"a batch of {' x '.join(str(number) for number in next(iter(batch.values())).shape)}"


# --- fewer bits ---------------------------------------------------------------------------------------------------------------


def to_int8(file: Path, smaller: Path, calibration: Sequence[Batch] = ()) -> None:
    """Write an ONNX file again with weights of 8 bits, a scale for each output channel.

    Without `calibration` activations are rounded by what each batch holds (dynamic); with it by the least and largest values that
    these batches show (static).

    Raises:
        RunError: onnxruntime cannot.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Rows(CalibrationDataReader):  # type: ignore[misc]  # it ships no types
        def __init__(self) -> None:
            self._left = iter(calibration)

        def get_next(self) -> dict[str, Any] | None:
            batch = next(self._left, None)
            return None if batch is None else {name: tensor.contiguous().numpy() for name, tensor in batch.items()}

    prepared = smaller.with_name("prepared.onnx")
    # The quantizer is Python, and says of a graph that it was not made for what its lines happen to raise.
    refused: tuple[type[Exception], ...] = (*_refusals(), ValueError, RuntimeError, KeyError, AttributeError, NotImplementedError)
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises, by the root logger, what is done here
    try:
        quant_pre_process(file, prepared, skip_symbolic_shape=True)
        model = onnx.load(prepared)
        del model.graph.value_info[:]  # the exporter's shapes of weights, which are turned round on the way
        with np.errstate(divide="ignore", invalid="ignore"):  # of a channel of nothing but zeros the scale is 0
            if calibration:
                kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
                quantize_static(model, smaller, Rows(), per_channel=True, **kinds)
            else:
                # Not convolutions, whose dynamic form a CPU has no kernel for.
                quantize_dynamic(model, smaller, ["MatMul", "Gather", "LSTM"], per_channel=True, weight_type=QuantType.QInt8)
    except refused as error:
        raise RunError(f"onnxruntime cannot bring {file.name} to 8 bits: {_one_line(error)}") from None
    finally:
        root.setLevel(level)
        prepared.unlink(missing_ok=True)


def difference(found: Logits, expected: Logits, place: str) -> float:
    """Largest absolute difference of two (B, K) arrays; [0.5, 200.0] and [0.5, 200.01] are 0.01 apart, which is within 1e-4 * 200.

    Raises:
        RunError: they differ by more than `TOLERANCE`, or hold a number that is not finite.
    """
    if found.shape != expected.shape:
        raise RunError(f"the ONNX file gives logits of shape {found.shape} for {place}, the saved model {expected.shape}")
    with np.errstate(invalid="ignore"):  # inf - inf
        apart = np.abs(found.astype(np.float64) - expected)
    within = np.isfinite(expected) & (apart <= TOLERANCE * np.maximum(1.0, np.abs(expected)))
    if not within.all():
        row, column = np.argwhere(~within)[0]
        raise RunError(
            f"the ONNX file answers other than the saved model, and is not kept: for {place}, logit {column} of example {row} is "
            f"{found[row, column]:.6g} where the saved model says {expected[row, column]:.6g}"
        )
    return float(apart.max())


# --- what is exported ---------------------------------------------------------------------------------------------------------


def _words(tokenizer: Any) -> list[int]:
    """Ids of the tokens that texts are made of."""
    return sorted(set(tokenizer.get_vocab().values()) - set(tokenizer.all_special_ids))


def batches_to_compare(recipe: Recipe, classifier: Classifier) -> list[Batch]:
    """What is compared, always the same. The exporter follows the first: neither B nor T is 1, which it takes for a constant."""
    model, preprocessor = classifier.model, cast(Any, classifier.preprocessor)
    generator = torch.Generator().manual_seed(0)
    sizes = sorted(SIZES, key=lambda size: size != 3)
    if recipe.data.kind == "image":
        shape = classifier.facts["input_size"]
        return [{"pixel_values": torch.randn(size, *shape, generator=generator)} for size in sizes]

    segments = all("token_type_ids" in names for names in (preprocessor("a"), inspect.signature(model.forward).parameters))
    words = torch.tensor(_words(preprocessor))
    shortest = family_saved_as(model.config.model_type).shortest_text
    longest = recipe.data.max_length
    windows = recipe.data.windows
    assert not isinstance(windows, str)  # it keeps the section
    of_windows = () if windows is None else (windows.length, windows.length + 1)
    batches = []
    for length in sorted(
        {*(length for length in (*LENGTHS, *of_windows) if length < longest), longest}, key=lambda length: abs(length - 7)
    ):
        for size in sizes:
            if size > 1 and size * length > MOST_TOKENS:
                continue
            # One text fills the batch, one is as short as a text can be, the others are in between; padded as in training.
            between = torch.randint(1, length + 1, (max(size - 2, 0),), generator=generator).tolist()
            rows = [
                words[torch.randint(len(words), (n,), generator=generator)].tolist() for n in [length, shortest, *between][:size]
            ]
            types = [[0] * (len(row) - half) + [1] * half for row in rows for half in [len(row) // 2 if recipe.data.pair else 0]]
            encoded = {"input_ids": rows} | ({"token_type_ids": types} if segments else {})
            batches.append(dict(preprocessor.pad(encoded, return_attention_mask=True, return_tensors="pt")))
    return batches


class _Graph(nn.Module):
    """Tensors in a fixed order in, logits out."""

    def __init__(self, model: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        return cast(Tensor, self.model(**dict(zip(self.names, tensors, strict=True))).logits)


class _WordGraph(_Graph):
    """A column of padding more, which changes nothing: then a text without a word, a batch of no columns, needs no other path."""

    def forward(self, *tensors: Tensor) -> Tensor:
        return super().forward(*(nn.functional.pad(tensor, (0, 1)) for tensor in tensors))  # <pad> is 0, and so is the mask


class _OnnxLSTM(nn.Module):
    """ONNX's operator with the weights of a torch LSTM of one layer and direction, for the exporter to follow.

    torch's own is unrolled while it is followed, which fixes the length of the texts.
    """

    def __init__(self, lstm: nn.LSTM) -> None:
        super().__init__()
        assert lstm.num_layers == 1 and lstm.batch_first and lstm.bias and not (lstm.bidirectional or lstm.proj_size)
        self.hidden_size = lstm.hidden_size
        for name, tensor in lstm.named_parameters():
            # torch stacks the gates as input, forget, cell, output; ONNX as input, output, forget, cell, below its direction.
            i, f, c, o = tensor.detach().chunk(4)
            self.register_buffer(name.removesuffix("_l0"), torch.cat([i, o, f, c])[None])

    def forward(self, words: Tensor) -> tuple[Tensor, None]:
        """(B, T, D) -> (B, T, H), and no last state."""
        buffers = dict(self.named_buffers())
        bias = torch.cat([buffers["bias_ih"], buffers["bias_hh"]], dim=1)
        states = torch.onnx.ops.symbolic(
            "LSTM",
            (words.transpose(0, 1), buffers["weight_ih"], buffers["weight_hh"], bias),
            {"hidden_size": self.hidden_size},
            dtype=torch.float32,
            shape=(words.shape[1], 1, words.shape[0], self.hidden_size),  # T, direction, B, H
        )
        return states[:, 0].transpose(0, 1), None


def _write(model: PreTrainedModel, recipe: Recipe, batch: Batch, file: Path) -> int:
    """Write the file; the version of its operators. LSTMs of the model are replaced in place.

    Raises:
        RunError: torch cannot export it.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    lstms = {name: module for name, module in model.named_modules() if isinstance(module, nn.LSTM)}
    for name, module in lstms.items():
        model.set_submodule(name, _OnnxLSTM(module))
    names = list(batch)
    graph = _Graph if family_saved_as(model.config.model_type).shortest_text else _WordGraph
    free = {0: "batch", 1: "length"} if recipe.data.kind == "text" else {0: "batch"}
    output = io.StringIO()
    try:
        with redirect_stderr(output):
            program = torch.onnx.export(
                graph(model, names).eval(),
                tuple(batch.values()),
                input_names=names,
                output_names=[OUTPUT],
                dynamic_shapes={"tensors": tuple(free for _ in names)},
                verbose=False,
            )
    except OnnxExporterError as error:
        reason: BaseException = error  # and not the graph that torch printed until then
        while reason.__cause__ is not None:
            reason = reason.__cause__
        raise RunError(f"torch cannot export {type(model).__name__} to ONNX: {_one_line(reason)}") from None
    sys.stderr.write(output.getvalue())
    assert program is not None
    # The exporter notes the stack of each operator: paths of this machine.
    ClearMetadataAndDocStringPass()(program.model)
    if (thresholds := getattr(model.config, "thresholds", None)) is not None:
        # Of several labels an example; config.json has them too, which may get lost on the way.
        classes: Mapping[Any, str] = model.config.id2label or {}
        labels = [classes[place] for place in range(len(thresholds))]
        program.model.metadata_props["hftl.thresholds"] = json.dumps(dict(zip(labels, thresholds, strict=True)), ensure_ascii=False)
    program.save(file)  # one file below 2 GB
    return int(program.model.opset_imports[""])


def _one_line(error: BaseException) -> str:
    """As much of an error as fits on a line that people read."""
    return textwrap.shorten(str(error), 240, placeholder=" ...") or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the libraries tell their own developers, and without transformers' loading bar."""
    verbosity = hub_logging.get_verbosity()
    bars = hub_logging.is_progress_bar_enabled()
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    hub_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    levels = {logger: logger.level for logger in map(logging.getLogger, TALKATIVE)}
    for logger in levels:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            # All inputs have the same "batch" and "length"; the exporter expected another name for each.
            warnings.filterwarnings("ignore", "# The axis name: .* will not be used", UserWarning)
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
        hub_logging.set_verbosity(verbosity)
        if bars:
            hub_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def usage(recipe: Recipe, done: Export) -> str:
    """The lines of Python that run the exported file, and answer as `hftl predict` does."""
    folder = done.file.parent
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    data = recipe.data
    if isinstance(data, TextData):
        of_texts = f'{tokenized(data)}, truncation=True, max_length={data.max_length}, padding=True, return_tensors="np"'
        encoded = [f"encoded = tokenizer({of_texts})"]
        if data.truncate == "head+tail":
            padded = 'tokenizer.pad({"input_ids": [tokens_of(text) for text in texts]}, return_tensors="np")'
            encoded = ["", tokens_of(folder), "", f"encoded = {padded}"]
        imports = ["import onnxruntime", "from transformers import AutoTokenizer"]
        prepared = [
            f"tokenizer = AutoTokenizer.from_pretrained({str(folder)!r})",
            *([make_text(data), ""] if data.joins else []),
            f"texts = [{example(data)}]" if data.joins else 'texts = ["Put a text here.", "And another one there."]',
            *encoded,
            'inputs = {wanted.name: encoded[wanted.name].astype("int64") for wanted in session.get_inputs()}',
        ]
        inputs, names = "texts", 'config["id2label"]'
        name = "names[str(row.argmax())]"
    else:  # the processors give torch tensors, timm's nothing else
        imports = ["import onnxruntime", "from PIL import Image, ImageOps", "from transformers import AutoImageProcessor"]
        pixels = 'pixels = processor([read_picture(file) for file in files], return_tensors="pt")["pixel_values"]'
        if data.bands is not None:
            imports = ["import onnxruntime", "import torch", *imports[1:]]
            pixels = "pixels = torch.stack([prepare(processor.val_transforms, read_picture(file)) for file in files])"
        prepared = [
            *reading_of(data, config).splitlines(),
            "",
            f"processor = AutoImageProcessor.from_pretrained({str(folder)!r})",
            f'files = ["picture.{"jpg" if data.bands is None else "npy"}"]',
            pixels,
            'inputs = {"pixel_values": pixels.numpy()}',
        ]
        inputs, names = "files", 'config["label_names"]'
        name = "names[int(row.argmax())]"
    if not isinstance(data, TextData) and not recipe.in_timms_format:
        names, name = 'config["id2label"]', "names[str(row.argmax())]"
    several = "thresholds" in config
    if several:
        answers = [
            "probabilities = 1 / (1 + np.exp(-logits))",
            f"for given, row in zip({inputs}, probabilities):",
            f"    print(given, [{name.replace('row.argmax()', 'place')} for place in np.flatnonzero(row >= thresholds)])",
        ]
    else:
        answers = [
            "odds = np.exp(logits - logits.max(axis=1, keepdims=True))",
            "probabilities = odds / odds.sum(axis=1, keepdims=True)",
            f"for given, row in zip({inputs}, probabilities):",
            f"    print(given, {name}, float(row.max()))",
        ]
    return "\n".join(
        [
            *("import json", "", "import numpy as np"),
            *imports,
            "",
            f"session = onnxruntime.InferenceSession({str(done.file)!r})",
            f'with open({str(folder / "config.json")!r}, encoding="utf-8") as stream:',
            "    config = json.load(stream)",
            f"names = {names}",
            *(["thresholds = np.array(config['thresholds'])"] if several else []),
            *prepared,
            '[logits] = session.run(["logits"], inputs)',
            *answers,
        ]
    )
