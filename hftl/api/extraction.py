"""Features of a finished run's model, or of a checkpoint as it came."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hftl.api.run import Run, load
from hftl.api.training import model_section, reads_pictures
from hftl.defaults import default_recipe
from hftl.errors import RunError
from hftl.launch import is_main_process
from hftl.memory import as_list
from hftl.recipe import ImageData, TextData, Timm, Transformer
from hftl.run import RunDirectory
from hftl.terminal import Say, tell

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hftl.extraction import Extractor


def features(
    model: Run | str | Path,
    inputs: Any,
    *,
    group: str | None = None,
    pooling: Literal["mean", "first"] | None = None,
    columns: str | Sequence[str] | None = None,
    on_bad_image: Literal["error", "skip"] = "error",
    batch_size: int = 64,
    say: Say = tell,
) -> NDArray[np.float32]:
    """One vector for each text or picture, (N, F) float32 in the order of the inputs, for scikit-learn; see `features_to`.

    Args:
        model: a run, its directory or a published one as "OWNER/NAME"; or a checkpoint, by its Hub id or as a local folder.
            Either may end with "@REVISION" on the Hub.
        inputs: what `Run.predict` takes.
        group: what enters this layer group of the model; None: what enters the head.
        pooling: of a text's tokens the mean or the first; None: the mean. A picture's features are the mean over all places.
        columns: what tables call the column of texts or pictures, or the columns of texts; None: as the run does.
        on_bad_image: whether a picture that cannot be read is refused, or left out.
        batch_size: pictures that are computed at once.
        say: is told which files were left out, and how far it has come.

    Raises:
        RunError, RecipeError: there is no such model, layer group or pooling; or what enters the group cannot be pooled so.
        DataError: inputs that cannot be read, all of them in one report.
    """
    import numpy as np

    if pooling == "none":  # type: ignore[comparison-overlap]  # a caller without a type checker may ask for it
        raise RunError('pooling: "none" gives no (N, F) but the tokens of each text; `hftl.features_to` writes them into a file')
    extractor, _ = _prepare(model, inputs, group, pooling, columns, on_bad_image, say)
    return np.concatenate([np.stack(block.values) for block in extractor.blocks(batch_size=batch_size, say=_of_main(say))])


def features_to(
    output: str | Path,
    model: Run | str | Path,
    inputs: Any,
    *,
    group: str | None = None,
    pooling: Literal["mean", "first", "none"] | None = None,
    columns: str | Sequence[str] | None = None,
    on_bad_image: Literal["error", "skip"] = "error",
    batch_size: int = 64,
    say: Say = tell,
) -> int:
    """The same into a new Parquet file, of which no more than a block is in memory; how many rows there are.

    The columns are `input` and those of the tables, and `features`, F float32; with `pooling="none"` a list of these for the tokens
    of a text. The metadata of its schema has "hftl.features": model, revision, boundary and pooling.

    Raises:
        RunError, RecipeError, DataError: as `features`; or an output that cannot be written, before anything is computed.
    """
    from hftl.extraction import OUTPUTS, writing
    from hftl.inference import check_output

    output = Path(output)
    check_output(output, what="features", endings=OUTPUTS)
    extractor, source = _prepare(model, inputs, group, pooling, columns, on_bad_image, say)
    if not is_main_process():
        return extractor.asked.count
    with writing(output, extractor, source) as write:
        for block in extractor.blocks(batch_size=batch_size, say=say):
            write(block)
    return extractor.asked.count


def _prepare(
    model: Run | str | Path,
    inputs: Any,
    group: str | None,
    pooling: Literal["mean", "first", "none"] | None,
    columns: str | Sequence[str] | None,
    on_bad_image: Literal["error", "skip"],
    say: Say,
) -> tuple[Extractor, dict[str, str | None]]:
    """What computes the features, and which model that is: its name and its revision."""
    from hftl.extraction import Extractor, bare

    columns = [columns] if isinstance(columns, str) else columns
    found = model if isinstance(model, Run) else _run_or_checkpoint(str(model))
    if isinstance(found, Run):
        classifier, content, source = found._predictor.classifier, found._predictor.content, found._source
    else:
        data = ImageData(source="inputs") if reads_pictures(found) else TextData(source="inputs")
        classifier, content = bare(default_recipe("features", data, found, rows=1, parameters=1))
        source = {"model": classifier.facts["base_model"], "revision": classifier.facts["revision"]}
    asked = content.inputs(as_list(inputs), _of_main(say), columns=columns, on_bad_image=on_bad_image)
    return Extractor(classifier, content, asked, group=group, pooling=pooling), source


def _of_main(say: Say) -> Say:
    return say if is_main_process() else lambda line: None


def _run_or_checkpoint(name: str) -> Run | Transformer | Timm:
    """A run, or a saved classifier, where there is one of this name, here or on the Hub; else the section of a checkpoint."""
    from hftl.models.checkpoint import CONFIG, find_checkpoint
    from hftl.models.foreign import check_folder

    path = Path(name).expanduser()
    if path.is_dir() and (RunDirectory(path).recipe.is_file() or not (path / CONFIG).is_file()):
        return load(path)  # also a run that has no model yet, which is said there
    repo_id, _, revision = (str(path), "", "") if path.is_dir() else name.partition("@")
    if not repo_id.startswith("timm/"):
        config = check_folder(find_checkpoint(Transformer(checkpoint=repo_id, revision=revision or None)), new_head=True)
        kinds = [str(kind) for kind in config.get("architectures") or ()]
        trained = any(kind.endswith(("ForSequenceClassification", "ForImageClassification")) for kind in kinds)
        if (trained or "label_names" in config) and (path.is_dir() or repo_id.count("/") == 1):
            return load(path if path.is_dir() else name, model_only=True)
    section = model_section(repo_id)
    return section.model_copy(update={"revision": revision}) if revision else section
