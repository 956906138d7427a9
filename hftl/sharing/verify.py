"""Verify: every number that a run or a published repository claims, computed again.

What is looked at. Files: their hashes, by the manifest; and whether they hold what hftl never writes, such as code (`contents`).
metrics.json: against the metrics of the stored predictions. The splits: counts and fingerprints, against the ids and labels of the
stored predictions. The openings of the test split: against the results that are there, and are not. The model's settings: against
the classes and the architecture on record. The freeze proof: what it says of each group, against its own hashes and the plan. The
figures: drawn again. The card: rendered again from the recomputed metrics and compared number by number, in its tables, its
sentences and its front matter.

Nothing here needs torch, the data or the model. What a person wrote into the recipe's `card` section cannot be recomputed; its
numbers are counted and left alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from hftl.errors import RunError, printable
from hftl.evaluation.gain import against_teacher, gain
from hftl.evaluation.openings import widened, widened_metrics
from hftl.evaluation.predictions import Predictions, stored_label_names
from hftl.evaluation.report import drawn_again, drawn_by, read_picture, same_everywhere
from hftl.evaluation.seeds import spread
from hftl.evaluation.views import Answers, load_viewed
from hftl.facts import contradictions, how_known
from hftl.freeze_proof import read_freeze_proof
from hftl.ledger import recipe_digest
from hftl.recipe import Recipe
from hftl.records.audit import read_audit
from hftl.records.baseline import read_baseline
from hftl.records.data import DataRecord, read_data, read_other_rows
from hftl.records.history import read_stage_ends
from hftl.records.metrics import Metrics, read_metrics, read_metrics_on_other_rows
from hftl.records.openings import LedgerRecord, read_openings, read_test_ledger
from hftl.records.plan import read_plan
from hftl.records.seeds import read_seeds
from hftl.records.teacher import read_teacher
from hftl.run import RunDirectory, sealed_files
from hftl.sharing.card import hand_written, render_card
from hftl.sharing.contents import drawing_note, foreign, read_settings
from hftl.sharing.publication import Publication, all_files, is_foreign, is_published, repository, wrong_files
from hftl.terminal import Shown

NUMBER = re.compile(r"(?<![\w.])[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?%?(?![\w])", re.IGNORECASE)
HEADLINES = ("metrics.json", "the model")
"""Their plain numbers are printed one by one; hundreds of others are counted."""
NOWHERE = "not published"
MISSING, NOT_COMPUTED = "missing", "not computed"
"""What is shown of a key that one side has and the other has not."""
MOST = 10
"""Claims that do not hold, in one message."""
NOTES = (
    "compared with the run's own records, which nothing can recompute: the stage table, parameters, counts and lengths of the"
    " training data, its duplicates, the hashes of the freeze proof, revisions, the openings of the test split, what other"
    " seeds came to, machine, time and dates",
)
MOST_OF_A_METRIC = 1e9
"""That a metric of a seed may be; a log loss has no bound of its own."""
MOST_RECIPES = 1_000_000
"""That a ledger may count: with more of them no interval can be told from the whole line."""
TINT = 8
"""Of 255; up to which a colour is the same: at the edge of a line the last digits of a float64 may show."""
EXACT = 1e-9
"""Relative difference up to which two float64 results of the same arithmetic on another machine count as equal."""


@dataclass(frozen=True)
class Claim:
    """One number, or one file, and what was found instead of it or in agreement with it."""

    kind: str
    """What was looked at: "files", "metrics.json", "data.json", "config.json", "freeze_proof.json", "figures", "README.md", "the
    model" and others."""
    where: str
    claimed: str
    recomputed: str
    holds: bool

    @property
    def difference(self) -> str:
        """Recomputed minus claimed where both are numbers, otherwise nothing."""
        claimed, recomputed = _as_number(self.claimed), _as_number(self.recomputed)
        return "" if claimed is None or recomputed is None else f"{recomputed - claimed:+.4g}"


@dataclass(frozen=True, repr=False)
class Verdict(Shown):
    """All claims, in the order of the card's reader."""

    claims: tuple[Claim, ...]
    hand_written: int
    """Numbers in what a person wrote, which nothing can recompute."""
    notes: tuple[str, ...] = ()
    """What was not looked at, and why."""

    def with_claims(self, more: Iterable[Claim]) -> Verdict:
        return dataclasses.replace(self, claims=(*self.claims, *more))

    @property
    def counts(self) -> dict[str, tuple[int, int]]:
        """{kind: (claims, how many of them do not hold)}, in their order."""
        found: dict[str, tuple[int, int]] = {}
        for claim in self.claims:
            claims, failed = found.get(claim.kind, (0, 0))
            found[claim.kind] = claims + 1, failed + (not claim.holds)
        return found

    @property
    def failed(self) -> tuple[Claim, ...]:
        return tuple(claim for claim in self.claims if not claim.holds)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from (Text(printable(line)) for line in self.lines())

    def lines(self, *, everything: bool = False) -> Iterator[str]:
        """The metrics and whatever does not hold, or every claim; then a count of each kind."""
        heading = None
        for claim in map(_on_one_line, self.claims):
            plain = claim.kind in HEADLINES and claim.difference and "[" not in claim.where
            if claim.holds and not plain and not everything:
                continue
            split, dot, name = claim.where.partition(".") if claim.kind in (*HEADLINES, "data.json") else ("", "", claim.where)
            if heading != (heading := f"{claim.kind}{', ' if dot else ''}{split if dot else ''}"):
                yield f"{heading:<34}{'claim':>12}{'recomputed':>12}{'difference':>12}"
            mark = "ok" if claim.holds else "no"
            if max(len(claim.claimed), len(claim.recomputed)) > 11:
                yield from (f"  {mark}  {name}", f"        claim  {claim.claimed}", f"        found  {claim.recomputed}")
            else:
                yield f"  {mark}  {name.replace('_', ' '):<28}{claim.claimed:>12}{claim.recomputed:>12}{claim.difference:>12}"
        yield ""
        for kind, (count, wrong) in self.counts.items():
            yield f"{kind:<18}{count:>6,} checked, {f'{wrong} WRONG' if wrong else 'all hold'}"
        if self.hand_written:
            yield f"{'by hand':<18}{self.hand_written:>6,} in what the authors wrote; there is nothing to check that by"
        yield from (f"- {note}" for note in self.notes)
        claims, wrong = len(self.claims), len(self.failed)
        yield f"DOES NOT HOLD: {wrong:,} of {claims:,} claims" if wrong else f"holds: all {claims:,} claims"


def verify(run: RunDirectory, *, repo_id: str | None = None, beside: Sequence[str] | None = None, figures: bool = True) -> Verdict:
    """Recompute what can be recomputed from the files of a run, one's own, pulled, or in the Hub's cache (then `repo_id`).

    Args:
        beside: of a run in the Hub's cache, all files that the repository has, of which only those that hftl writes were fetched;
            None: they are not known.
        figures: draw them again, which takes most of the time.

    Raises:
        RunError: it is no finished run, or files of it are not what hftl writes.
    """
    run.check_finished("there is no metrics.json whose numbers could be verified")
    recipe, stated, published = run.load_recipe(), read_metrics(run), repository(run)
    if repo_id is not None and published is None:
        raise RunError(f"{repo_id}: no manifest of a publication in it; was it pushed by hftl?")
    claims, notes = list(_compare_files(run, repo_id or published, cached=repo_id is not None)), list(NOTES)
    if not run.manifest.is_file():
        notes.append("no manifest.json: whether files were changed is not known")
    if published is not None:
        claims += _compare_beside(run, beside if repo_id is not None else all_files(run.path))
        if repo_id is not None and beside is None:
            notes.append("what else lies in the repository is not known: the Hub was not asked, or did not answer")
    data, recomputed = read_data(run), Metrics()
    for split in stated:
        path = run.predictions(split)
        predictions, names = Predictions.load(path), stored_label_names(path)
        skipped = sum(row["split"] == split for row in data["skipped"])
        viewed = load_viewed(run.viewed_predictions(split))
        recomputed[split] = Answers(predictions, viewed).metrics(names, skipped=skipped)
        if viewed is not None:
            claims.append(_same("metrics.json", f"{split}.tta, as recipe.yaml has it", str(viewed.views), recipe.run.tta))
        claims += _compare_values("metrics.json", split, stated[split], recomputed[split])
        claims += _compare_split(split, predictions, names, data)
    claims += _compare_settings(run, stored_label_names(run.predictions("validation")), data)
    claims += _compare_baseline(run, stated)
    claims += _compare_teacher(run, recipe)
    claims += _compare_seeds(run, recipe)
    evaluations, of_evaluations = _recompute_evaluations(run)
    claims += of_evaluations
    claims += _compare_proofs(run)
    claims += _compare_facts(recipe, data)
    claims += _compare_openings(run, recipe, stated, data)
    if figures:
        drawn, not_compared = _compare_figures(run, recomputed)
        claims += drawn
        notes += not_compared
    if how_known(recipe, data) == "claimed":
        named = recipe.card.dataset or recipe.card.dataset_name
        notes.append(f"that the data are {named} is the authors' word: the recipe has no fingerprint of it")
    if run.card.is_file():
        claims += _compare_cards(
            run, render_card(run, repo_id=published, metrics=recomputed, evaluations=evaluations), hand_written(recipe)
        )
    else:
        notes.append("no README.md: there is no card to compare")
    return Verdict(tuple(claims), sum(len(NUMBER.findall(text)) for text in hand_written(recipe)), tuple(notes))


def _compare_files(run: RunDirectory, repo_id: str | None, *, cached: bool) -> Iterator[Claim]:
    if run.manifest.is_file():
        wrong = wrong_files(run, cached=cached)
        for name in dict.fromkeys([*sealed_files(run), *wrong]):
            yield Claim("files", name, "as sealed", wrong.get(name, "as sealed"), name not in wrong)
        if repo_id is not None:
            published = repository(run) or NOWHERE
            yield Claim("files", "repository", repo_id, published, repo_id == published)
    model = run.model.relative_to(run.path)
    places = [path for folder in (run.model, run.figures) for path in sorted(folder.glob("*")) if path.is_file()]
    names = [name for name in (path.relative_to(run.path).as_posix() for path in places) if is_published(_at_root(name, model))]
    wrong_parts: dict[str, list[str]] = {name: [] for name in names}
    for name, what in foreign(run.path, names):
        wrong_parts[name].append(what)
    for name, found in wrong_parts.items():
        words = "as hftl writes it"
        yield Claim("files", f"{name}, what it holds", words, "; ".join(found) or words, not found)


def _at_root(name: str, model: Path) -> str:
    """Path of a file in the repository: there a model lies at the root."""
    path = PurePosixPath(name)
    return path.relative_to(model).as_posix() if path.is_relative_to(model) else name


def _compare_beside(run: RunDirectory, names: Iterable[str] | None) -> Iterator[Claim]:
    """Files of a published run that hftl did not write: documents are for people; any other one a library may load."""
    for name in names or ():
        if is_foreign(name):
            yield Claim("files", name, "not there", "not of hftl, and a library that loads the model may read it", False)


def _compare_settings(run: RunDirectory, names: Sequence[str], data: DataRecord) -> Iterator[Claim]:
    """What the model's config.json calls the classes and the network, against the predictions and data.json."""
    path = run.model / "config.json"
    if not path.is_file():
        return
    config = read_settings(path)
    classes = config.get("id2label")
    stated = config.get("label_names") if classes is None else classes
    if isinstance(stated, Mapping):
        stated = [stated.get(str(place)) for place in range(len(stated))]
    yield _same("config.json", "classes", _shown(stated), _shown(list(names)))
    network = config.get("architecture") or next(iter(config.get("architectures") or ()), None)
    yield _same("config.json", "architecture", _shown(network), data["model"]["architecture"])


def require_verified(run: RunDirectory) -> Verdict:
    """`verify` without the figures, which are drawn again of what a push sends (`require_verified_copy`).

    Raises:
        RunError: one does not.
    """
    verdict = verify(run, figures=False)
    if verdict.failed:
        left = len(verdict.failed) - MOST
        more = [f"  and {left} more; see them with: hftl verify {run.path}"] if left > 0 else []
        help = f"  A card that was changed by hand, or written by another hftl, is written again with: hftl card {run.path}"
        raise RunError("\n".join([f"{run.path}: these claims do not hold:", *_first_failed(verdict), *more, help]))
    return verdict


def require_verified_copy(publication: Publication, run: RunDirectory) -> Verdict:
    """`verify` of exactly what would be sent, as a stranger will do it.

    Raises:
        RunError: a claim does not hold.
    """
    verdict = verify(RunDirectory(publication.folder))
    if verdict.failed:
        what = "what would be sent does not hold, though the run does; was it changed at this moment?"
        raise RunError("\n".join([f"{run.path}: {what}", *_first_failed(verdict)]))
    return verdict


def _first_failed(verdict: Verdict) -> Iterator[str]:
    for claim in verdict.failed[:MOST]:
        yield f"  {claim.kind}, {claim.where}: {claim.claimed}; recomputed: {claim.recomputed}"


def _on_one_line(claim: Claim) -> Claim:
    """A stranger's file names and lines may hold line breaks that would look like lines of the report."""
    parts = (" ".join(text.split()) for text in (claim.where, claim.claimed, claim.recomputed))
    where, claimed, recomputed = parts
    return Claim(claim.kind, where, claimed, recomputed, claim.holds)


# --- values of JSON -----------------------------------------------------------------------------------------------------------


def _compare_values(kind: str, where: str, stated: Any, recomputed: Any) -> Iterator[Claim]:
    """A claim for each number (and each name) in a JSON value; a key that is missing on either side does not hold."""
    if isinstance(stated, Mapping) and isinstance(recomputed, Mapping):
        for key in dict.fromkeys([*stated, *recomputed]):
            one, other = stated.get(key, MISSING), recomputed.get(key, NOT_COMPUTED)
            yield from _compare_values(kind, f"{where}.{key}", one, other)
    elif _are_lists(stated, recomputed) and len(stated) == len(recomputed):
        for place, (one, other) in enumerate(zip(stated, recomputed, strict=True)):
            yield from _compare_values(kind, f"{where}[{place}]", one, other)
    else:
        yield Claim(kind, where, _shown(stated), _shown(recomputed), _equal(stated, recomputed))


def _are_lists(*values: Any) -> bool:
    return all(isinstance(value, Sequence) and not isinstance(value, str) for value in values)


def _equal(stated: Any, recomputed: Any) -> bool:
    if isinstance(stated, float) and isinstance(recomputed, float | int):
        return math.isclose(stated, recomputed, rel_tol=EXACT, abs_tol=EXACT)
    return bool(stated == recomputed)


def _compare_split(split: str, predictions: Predictions, names: Sequence[str], data: DataRecord) -> Iterator[Claim]:
    stated = data["splits"].get(split, MISSING)
    yield from _compare_values("data.json", split, stated, predictions.target.split_facts(predictions, names))


def _recompute_evaluations(run: RunDirectory) -> tuple[Metrics, list[Claim]]:
    """The metrics on other rows, by the evaluation's name, and what is stated of them, of the counts and of the fingerprints."""
    recomputed, claims = Metrics(), list[Claim]()
    for name in run.evaluations:
        path = run.evaluation(name) / "predictions.parquet"
        predictions, names = Predictions.load(path), stored_label_names(path)
        stated, stated_rows = read_metrics_on_other_rows(run, name), read_other_rows(run, name)
        classes = stored_label_names(run.predictions("validation"))
        claims.append(_same("evaluations", f"{name}, classes", _shown(list(names)), _shown(list(classes))))
        answers = Answers(predictions, load_viewed(path.with_name("views.parquet")))
        recomputed[name] = answers.metrics(names, skipped=len(stated_rows["skipped"]))
        claims += _compare_values("evaluations", name, stated, recomputed[name])
        rows = predictions.target.split_facts(predictions, names)
        rows["without"] = [label for label, number in rows["per_class"].items() if not number]
        comparable = {key: value for key, value in stated_rows.items() if key in rows}
        claims += _compare_values("evaluations", f"{name}, rows", comparable, rows)
    return recomputed, claims


def _compare_baseline(run: RunDirectory, stated: Metrics) -> Iterator[Claim]:
    """What the model gains over the baseline beside it, from the predictions of both."""
    record = read_baseline(run)
    if record is None or "gains" not in record:
        return
    gains = record["gains"]
    yield _same("baseline.json", "splits", _shown(sorted(gains)), _shown(sorted(stated)))
    for split in gains:
        model, path = run.predictions(split), run.baseline_predictions(split)
        classes = (_shown(list(stored_label_names(each))) for each in (path, model))
        yield _same("baseline.json", f"{split}, classes", *classes)
        yield from _compare_values("baseline.json", split, gains[split], gain(Predictions.load(model), Predictions.load(path)))


def _compare_teacher(run: RunDirectory, recipe: Recipe) -> Iterator[Claim]:
    """How the model and the teacher that it has learned from answer the same rows, from the predictions of both."""
    record = read_teacher(run)
    if record is None and recipe.teacher is None:
        return
    stated, found = (_shown(["none" if some is None else "one"]) for some in (recipe.teacher, record))
    yield _same("teacher.json", "a teacher, as recipe.yaml has it", found, stated)
    if record is None:
        return
    splits = ("test", "validation")
    there = [split for split in splits if all(path(split).is_file() for path in (run.teacher_predictions, run.predictions))]
    yield _same("teacher.json", "splits", _shown(sorted(record["splits"])), _shown(there))
    for split in there:
        model, path = run.predictions(split), run.teacher_predictions(split)
        classes = (_shown(list(stored_label_names(each))) for each in (path, model))
        yield _same("teacher.json", f"{split}, classes", *classes)
        now = against_teacher(Predictions.load(model), Predictions.load(path))
        yield from _compare_values("teacher.json", split, record["splits"].get(split, {}), now)


def _compare_seeds(run: RunDirectory, recipe: Recipe) -> Iterator[Claim]:
    """What is said of other seeds: it has to be of this recipe and these rows, and its mean and interval those of its values."""
    record = read_seeds(run)
    if record is None:
        return
    yield _same("seeds.json", "recipe and rows", record["recipe"], recipe_digest(run, seed=False))
    yield _same("seeds.json", "metric", record["metric"], recipe.run.chooser)
    seeds, values = record["seeds"], record["values"]
    fits = len(set(seeds)) == len(seeds) == len(values) > 1 and all(abs(value) < MOST_OF_A_METRIC for value in values)
    words = "a number of each of several seeds"
    yield Claim("seeds.json", "values", words, words if fits else _shown(values), fits)
    if fits:
        recomputed = dataclasses.asdict(spread(values))
        yield from _compare_values(
            "seeds.json", "all seeds", {key: value for key, value in record.items() if key in recomputed}, recomputed
        )


# --- names of data set and base model -----------------------------------------------------------------------------------------


def _compare_facts(recipe: Recipe, data: DataRecord) -> Iterator[Claim]:
    """What the recipe's card calls the data set and the base model, against what was read."""
    wrong = {problem.where: problem.what for problem in contradictions(recipe, data)}
    for fact in ("dataset", "dataset_name", "dataset_fingerprint", "base_model"):
        key, value = f"card.{fact}", getattr(recipe.card, fact)
        if key in wrong or (value and fact != "dataset_name"):
            yield Claim("recipe.yaml", key, _shown(value), wrong.get(key, _shown(value)), key not in wrong)


# --- the openings of the test split --------------------------------------------------------------------------------------------


def _compare_openings(run: RunDirectory, recipe: Recipe, stated: Metrics, data: DataRecord) -> Iterator[Claim]:
    """Whether openings, results and data tell one story, and what the ledger counts against the run's own openings.

    A result needs an opening, and an opening shows its result, by what the recipe leaves it to. Where the test split was not
    opened, nothing of it is there but its counts.
    """
    kind, result, splits, openings = "test_openings.jsonl", "test" in stated, data["splits"], read_openings(run)
    opened = bool(openings)
    times = "shut: no result" if not opened else f"opened {len(openings)} times: a result"
    yield Claim(kind, "result of the test split", ("no result", "a result")[result], times, result == opened)
    predicted = run.predictions("test").is_file()
    yield Claim(kind, "predictions of the test split", ("none", "there")[predicted], times, predicted == opened)
    if opened:
        yield _same(kind, "first opened for", openings[0]["purpose"], "train" if recipe.opens_test else "test")
        yield _same(kind, "runs", str(len({opening["run"] for opening in openings})), "1")
    words = ("no test split", "a test split")
    if opened:
        yield _same("data.json", "test split", words["test" in splits], words[True])
    elif recipe.opens_test and "test" in splits:
        yield Claim(kind, "opened", "never", "at the end of training, as run.test and data.test_split of recipe.yaml say", False)
    yield _same("data.json", "contents, splits", ", ".join(sorted(data["contents"])), ", ".join(sorted(splits)))
    if "test" in data["fingerprint"]:  # of the source's splits, of which test may be a part of train
        yield _same("data.json", "fingerprint", words[True], words["test" in splits])
    yield _same("data.json", "test", words[data["test"] != "none"], words["test" in splits])
    yield _same("data.json", "test_rows", words["test_rows" in data], words["test" in splits])
    yield _same("audit.json", "splits", ", ".join(sorted(read_audit(run)["splits"])), ", ".join(sorted(splits)))
    ledger = read_test_ledger(run)
    if ledger is not None:
        own, runs = len(openings), ledger["runs"]
        for key, stated_number, least in (("openings", ledger["openings"], own + runs - 1), ("runs", runs, 1)):
            holds = opened and stated_number >= least
            recomputed = "no opening by this run" if not opened else f"at least {least}"
            yield Claim("test_ledger.json", key, str(stated_number), str(stated_number) if holds else recomputed, holds)
        yield from _compare_widened(run, recipe, ledger, result)
        if runs == 1:  # then all of them are this run's own
            yield _same("test_ledger.json", "openings by this run", str(ledger["openings"]), str(own))


def _compare_widened(run: RunDirectory, recipe: Recipe, ledger: LedgerRecord, result: bool) -> Iterator[Claim]:
    """How many recipes the ledger counts, and the intervals that were widened for them, from the predictions."""
    recipes = ledger["recipes"]
    holds = 1 <= recipes <= min(ledger["runs"], MOST_RECIPES)
    yield Claim("test_ledger.json", "recipes", str(recipes), str(recipes) if holds else "1 to as many as runs", holds)
    if not holds:
        return
    recomputed = None
    if recipes > 1 and result:
        predictions = Predictions.load(run.predictions("test"))
        recomputed = widened(predictions, widened_metrics(predictions, recipe), recipes=recipes)
    yield from _compare_values("test_ledger.json", "widened", ledger.get("widened"), recomputed)


# --- the figures --------------------------------------------------------------------------------------------------------------


def _compare_figures(run: RunDirectory, metrics: Metrics) -> tuple[list[Claim], list[str]]:
    """Each figure drawn again from the history, the predictions and the recomputed metrics, and compared by its pixels.

    What was drawn elsewhere may differ by where a line is set. Then it is not compared, which is a note.
    """
    claims, notes, here = list[Claim](), list[str](), drawn_by()
    for path in sorted(run.figures.glob("*.png")):
        name = f"figures/{path.name}"
        if not is_published(name):
            continue
        if any(foreign(run.path, [name])):  # said among the files; no library reads it
            continue
        try:
            drawn, stored = drawn_again(run, path.name, metrics), read_picture(path)
        except RunError as error:
            claims.append(Claim("figures", path.name, "as drawn", str(error), False))
            continue
        same = drawn.shape == stored.shape and int(np.abs(drawn.astype(np.int16) - stored).max()) <= TINT
        drawn_with = drawing_note(path)
        if same or drawn_with is None or (drawn_with == here and same_everywhere(metrics)):
            claims.append(Claim("figures", path.name, "as drawn", "as drawn" if same else "another picture", same))
        else:
            notes.append(f"{name} was not compared: it is not as it is drawn here ({here}), and was drawn by {drawn_with}")
    return claims, notes


# --- the freeze proof ---------------------------------------------------------------------------------------------------------


def _compare_proofs(run: RunDirectory) -> Iterator[Claim]:
    """What is stated of each group against its hashes, which groups train against the plan, and one stage against the next.

    Until a stage trains a group, it starts every stage with the hashes that it had at the very first. After a stage whose weights
    were not kept, every group starts the next one with the hashes that it had before that stage.
    """
    proofs, plan = read_freeze_proof(run), read_plan(run)
    head = plan["groups"][-1]["name"]  # which has no adapters
    planned = {
        stage["name"]: [
            (group["name"], _how(group["trains"], adapters=bool(stage.get("lora")) and group["name"] != head))
            for group in stage["groups"]
        ]
        for stage in plan["stages"]
    }
    stated = {
        proof.stage: [(group.name, _how(group.trains, adapters=group.under_adapters is not None)) for group in proof.groups]
        for proof in proofs
    }
    for stage in dict.fromkeys([*planned, *stated]):
        yield _same("freeze_proof.json", f"{stage}, groups", _frozen_or_not(stated.get(stage)), _frozen_or_not(planned.get(stage)))
    first: dict[str, tuple[str, str]] = {}
    trained: set[str] = set()
    ends = {end["stage"]: end["kept"] for end in read_stage_ends(run, plan)}
    for earlier, proof in zip([None, *proofs], proofs, strict=False):
        yield _same("freeze_proof.json", f"{proof.stage}, kept", str(proof.kept), str(ends.get(proof.stage, NOWHERE)))
        if earlier is not None and not earlier.kept:
            then, begins = ({group.name: group.before for group in stage.groups} for stage in (earlier, proof))
            words = ("as before a stage that was not kept", "other hashes")
            yield _same("freeze_proof.json", f"{proof.stage}, before", words[0], words[then != begins])
        for group in proof.groups:
            where, words = f"{proof.stage}, {group.name}", ("moved", "not moved") if group.trains else ("unchanged", "changed")
            yield _same("freeze_proof.json", where, words[not group.stated], words[not group.ok])
            if group.name not in trained and group.before != first.setdefault(group.name, group.before):
                yield Claim("freeze_proof.json", f"{where}, before", "as at first", "other hashes", False)
        trained |= {group.name for group in proof.groups if group.trains}
        yield _same("freeze_proof.json", f"{proof.stage}, ok", str(proof.stated), str(all(group.ok for group in proof.groups)))


def _how(trains: bool, *, adapters: bool) -> str:
    return "frozen" if not trains else "trains by adapters" if adapters else "trains"


def _frozen_or_not(groups: Iterable[tuple[str, str]] | None) -> str:
    return "no such stage" if groups is None else ", ".join(f"{name} {how}" for name, how in groups)


def _same(kind: str, where: str, claimed: str, recomputed: str) -> Claim:
    return Claim(kind, where, claimed, recomputed, claimed == recomputed)


# --- the card -----------------------------------------------------------------------------------------------------------------


def _compare_cards(run: RunDirectory, rendered: str, by_hand: Sequence[str]) -> Iterator[Claim]:
    """A claim for each number of the card, beside the number at the same place of the card rendered again; then for the rest."""
    card = run.card.read_bytes().decode(errors="replace")
    own = {line.strip() for text in by_hand for line in text.split("\n")}
    claimed, found = card.split("\n"), rendered.split("\n")
    for kind, a, b, c, d in difflib.SequenceMatcher(None, claimed, found, autojunk=False).get_opcodes():
        if kind == "equal":
            for number, line in enumerate(claimed[a:b], start=a + 1):
                if line.strip() not in own:
                    yield from (Claim("README.md", f"line {number}", value, value, True) for value in NUMBER.findall(line))
            continue
        for place in range(max(b - a, d - c)):
            before = claimed[a + place] if a + place < b else ""
            after = found[c + place] if c + place < d else ""
            yield from _compare_lines(f"line {min(a + place, len(claimed) - 1) + 1}", before, after)
    same = "the same text" if card == rendered else "another text"
    if card == rendered or [line for line in claimed if line] == [line for line in found if line]:
        yield Claim("README.md", "all of it", "the same text", same, card == rendered)


def _compare_lines(where: str, before: str, after: str) -> Iterator[Claim]:
    if NUMBER.split(before) != NUMBER.split(after):
        yield Claim("README.md", where, before.strip() or "(no such line)", after.strip() or "(no such line)", False)
        return
    for one, other in zip(NUMBER.findall(before), NUMBER.findall(after), strict=True):
        yield Claim("README.md", where, one, other, one == other)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else "undefined" if value is None else str(value)


def _as_number(text: str) -> float | None:
    try:
        return float(text.replace(",", "").rstrip("%"))
    except ValueError:
        return None
