"""Turns raw documents into a folder for training.

    OUT/tokenizer.json    the vocabulary
    OUT/train/            token shards (see shards.py)
    OUT/held_out/         token shards of the documents kept for evaluation

The files appear together or not at all. The text is read in passes, in portions that do not depend on the number of
processes, and is never held as a whole.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from anybatch.data import held_out as evaluation
from anybatch.data import vocabulary
from anybatch.data.counts import JUDGED_AFTER_TOKENS, State
from anybatch.data.duplicates import Hashes, find_duplicates
from anybatch.data.pool import map_in_order
from anybatch.data.raw import HUB, Place, Portion, find_sources, read_portions
from anybatch.data.sentences import in_batches
from anybatch.data.shard_writer import MAX_SHARD_TOKENS, ShardWriter
from anybatch.data.small_vocabularies import characters, single_bytes
from anybatch.data.staging import Staging, staged
from anybatch.data.text import EncodedPortion, LengthFilter, check_not_empty, encode_portion, hash_portion, parsed
from anybatch.environment import available_cores
from anybatch.errors import InputError
from anybatch.progress import PassReport

TOKENIZER = "tokenizer.json"
TRAIN = "train"
HELD_OUT = "held_out"

# The largest amount of text to train a vocabulary on: its words are counted in memory.
VOCABULARY_CHARACTERS = 1 << 30
_CHARACTERS_IN_A_PORTION = 1 << 21
_DUPLICATES = "duplicates.npy"
# Part of what a half-finished folder and the work that continues it must have in common.
_FORMAT = 5
_MOST_PROCESSES = 1024

# Vocabularies that this module makes.
Kind = Literal["wordpiece", "characters", "bytes"]

# The part of each of N documents, int8[N]: 0 for training, 1 held out, or none, for a duplicate; and a function that
# gives it for the documents first .. first + count - 1.
Parts = NDArray[np.int8]
PartOf = Callable[[int, int], Parts]
_IN_NO_PART = np.int8(2)
Result = TypeVar("Result")


def tokenizer_of(folder: Path) -> Tokenizer:
    """Returns the vocabulary of the shards in a prepared folder.

    Raises:
        InputError: there is none, or no model can use it.
    """
    path = folder / TOKENIZER
    if not path.exists():
        raise InputError(f"{path}: no such file; `anybatch data prepare TEXT --out FOLDER` makes it")
    return vocabulary.load(path)


def kind_of(tokenizer: Tokenizer) -> Kind | None:
    """Returns the kind of a vocabulary; None if it is not one that this module makes."""
    parts = json.loads(tokenizer.to_str())
    match parts["model"]:
        case {"type": "WordPiece"}:
            return "wordpiece"
        case {"type": "BPE", "merges": []}:
            return "bytes" if (parts["pre_tokenizer"] or {}).get("type") == "ByteLevel" else "characters"
    return None


@dataclass(frozen=True)
class Options:
    """How text becomes shards.

    Args:
        vocabulary_size: the number of WordPieces, or the largest number of characters, of the vocabulary made from the
            training documents (from their first 2^30 characters). Not used for bytes or a given tokenizer.
        tokenizer: the kind of vocabulary to make, or an existing one.
        held_out: the share of documents kept for evaluation, chosen by a hash of (seed, document number). Either part
            gets at least two documents, which next-sentence prediction needs.
        lengths: which documents are skipped because of their length.
        drop_duplicates: whether to skip a document whose text repeats an earlier one.
    """

    vocabulary_size: int = 8192
    tokenizer: Tokenizer | Kind = "wordpiece"
    held_out: float = 0.05
    seed: int = 0
    lengths: LengthFilter = field(default_factory=LengthFilter)
    drop_duplicates: bool = False
    max_shard_tokens: int = MAX_SHARD_TOKENS


def prepare(
    documents: Callable[[], Iterable[str]], out: Path, *, progress: PassReport | None = None, **options: Any
) -> dict[str, Any]:
    """Writes the folder `out`: a vocabulary, and token shards for training and evaluation.

    Args:
        documents: gives the same documents again each time it is called.
        options: the fields of `Options`.
        progress: called with the progress of each pass.

    Returns:
        vocabulary_size; unknown_share, of the tokens that are [UNK], words outside the vocabulary; train and held_out,
        each with its documents, sentences and tokens; left_out, the documents in no part: by_length, and duplicates of
        earlier ones.

    Raises:
        InputError: fewer than four documents, or fewer than two with two tokens or more in a part; a share outside (0,
            1), a vocabulary size out of bounds, a tokenizer that cannot encode the text, or `out` exists.
    """
    with staged(out, None) as staging:
        chosen = Options(**options)
        return _Preparation([], [0], lambda start: _in_portions(documents()), staging, chosen, 1, progress).run()


def prepare_files(
    names: Iterable[str | Path],
    out: Path,
    *,
    processes: int | None = None,
    progress: PassReport | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Prepares files, folders, globs, lists and data sets of the Hub (see raw.find_sources).

    It uses `processes` processes (None: the number of cores); the shards are the same for any number.

    If a killed process left the same work unfinished, it is continued.
    """
    if processes is not None and not 1 <= processes <= _MOST_PROCESSES:
        raise InputError(f"processes = {processes}: must be at least 1 and at most {_MOST_PROCESSES}")
    chosen = Options(**options)
    found = find_sources(names)
    sizes = [0 if name.startswith(HUB) else os.stat(name).st_size for name in found]
    with staged(out, _identity(found, chosen)) as staging:
        read = partial(read_portions, found)
        return _Preparation(found, sizes, read, staging, chosen, processes or available_cores(), progress).run()


def _identity(sources: list[str], options: Options) -> dict[str, Any]:
    """Returns what distinguishes preparations: files that changed, other settings."""
    chosen = options.tokenizer
    tokenizer = chosen if isinstance(chosen, str) else vocabulary.fingerprint(chosen)
    files = [
        [name]
        if name.startswith(HUB)
        else [str(Path(name).resolve()), (about := os.stat(name)).st_size, about.st_mtime_ns]
        for name in sources
    ]
    settings = {name: value for name, value in vars(options).items() if name not in ("tokenizer", "lengths")}
    return {"format": _FORMAT, "files": files, "tokenizer": tokenizer, **settings, "lengths": asdict(options.lengths)}


@dataclass(frozen=True)
class _Preparation:
    """One run of the passes.

    Args:
        names: the sources, each of which must give a document; sizes: their bytes (0: unknown).
        portions: reads the portions of all sources, from a place on.
    """

    names: list[str]
    sizes: list[int]
    portions: Callable[[Place | None], Iterator[Portion]]
    staging: Staging
    options: Options
    processes: int
    progress: PassReport | None

    def run(self) -> dict[str, Any]:
        options, folder = self.options, self.staging.folder
        is_held_out = evaluation.choose(self._documents(), options.held_out, options.seed)
        marks = None
        if options.drop_duplicates:
            if not self.staging.saved:
                np.save(folder / _DUPLICATES, self._find_duplicates())
            marks = np.load(folder / _DUPLICATES)

        def part_of(first: int, count: int) -> Parts:
            part = is_held_out(first, count).astype(np.int8)
            return part if marks is None else np.where(marks[first : first + count], _IN_NO_PART, part)

        if self.staging.saved:
            tokenizer = vocabulary.load(folder / TOKENIZER)
        else:
            tokenizer = self._tokenizer(part_of)
            vocabulary.ordinary_ids(tokenizer, "the tokenizer")
            vocabulary.save(tokenizer, folder / TOKENIZER)
        state, parts = self._write(tokenizer, part_of)
        (folder / _DUPLICATES).unlink(missing_ok=True)
        return {
            "vocabulary_size": tokenizer.get_vocab_size(),
            "unknown_share": state.unknown_share,
            **parts,
            "left_out": {"by_length": state.by_length, "duplicates": state.duplicates},
        }

    def _tokenizer(self, part_of: PartOf) -> Tokenizer:
        # WordPiece reads the texts twice, for the alphabet first.
        stages = iter(("alphabet", "vocabulary"))
        match self.options.tokenizer:
            case "wordpiece" | "characters" as kind:
                make = vocabulary.train if kind == "wordpiece" else characters
                return make(lambda: self._training_texts(part_of, next(stages)), self.options.vocabulary_size)
            case "bytes":
                return single_bytes()
            case given:
                return given

    def _tell(self, stage: str, done: int, place: Place) -> None:
        if self.progress is not None:
            # Inside a packed file the estimate of the bytes before a place is too high.
            before = sum(self.sizes[: place.source]) + min(place.offset, self.sizes[place.source])
            self.progress(stage, done, before, sum(self.sizes))

    def _documents(self) -> Iterator[str]:
        done = 0
        keep_blank = self.options.lengths.fewest > 0
        for portion, found in parsed(self.portions(None), self.names, keep_blank=keep_blank):
            yield from found
            done += len(found)
            self._tell("reading", done, portion.end)

    def _find_duplicates(self) -> NDArray[np.bool_]:
        def hashed() -> Iterator[Hashes]:
            done = 0
            for end, found in self._mapped(partial(hash_portion, self.options.lengths)):
                yield found
                done += len(found)
                self._tell("duplicates", done, end)

        return find_duplicates(hashed(), self.staging.folder / "hashes")

    def _mapped(self, work: Callable[[Portion], Result], start: Place | None = None) -> Iterator[Result]:
        return map_in_order(work, self.portions(start), self.processes, attrgetter("num_bytes"))

    def _training_texts(self, part_of: PartOf, stage: str) -> Iterator[str]:
        """Yields the texts to train a vocabulary on, up to a bound."""
        done = characters = filtered = 0
        for portion in self.portions(None):
            texts = self.options.lengths.texts(portion)
            used = part_of(done, len(texts)) == 0
            filtered += texts.count("")
            for text, is_used in zip(texts, used, strict=True):
                if is_used and characters < VOCABULARY_CHARACTERS:
                    characters += len(text)
                    yield text
            done += len(texts)
            self._tell(stage, done, portion.end)
            if characters >= VOCABULARY_CHARACTERS:
                break
        if not characters and filtered:
            raise InputError(
                f"{filtered:,} of {done:,} documents are left out for their length, and no text is left to train on; "
                "change --min-characters and --max-characters"
            )

    def _write(self, tokenizer: Tokenizer, part_of: PartOf) -> tuple[State, dict[str, dict[str, int]]]:
        """Runs the last pass: writes all documents to the shards of their parts."""
        folder, saved, names = self.staging.folder, self.staging.saved, self.names
        state = State.of(saved["pass"]) if saved else State()
        writers = []
        for number, name in enumerate((TRAIN, HELD_OUT)):
            (folder / name).mkdir(exist_ok=True)
            states = saved["writers"][number] if saved else None
            writers.append(ShardWriter(folder / name, tokenizer, self.options.max_shard_tokens, states))

        def snapshot() -> dict[str, Any]:
            return {"pass": asdict(state), "writers": [writer.state() for writer in writers]}

        unknown = vocabulary.special_ids(tokenizer)["[UNK]"]
        work = partial(encode_portion, folder / TOKENIZER, vocabulary.fingerprint(tokenizer), self.options.lengths)
        try:
            self.staging.save(snapshot, now=True)
            for portion in self._mapped(work, state.place):
                if portion.end.source != state.place.source:
                    check_not_empty(names[state.place.source : portion.end.source], state.documents_of_source)
                    state.documents_of_source = 0
                _add(portion, state, writers, part_of)
                state.unknown += int((portion.tokens == unknown).sum())
                state.tokens += len(portion.tokens)
                if state.tokens > JUDGED_AFTER_TOKENS:
                    state.check_known()
                self.staging.save(snapshot)
                self._tell("tokens", state.documents, state.place)
            check_not_empty(names[state.place.source :], state.documents_of_source)
            state.check_known()
            for name, found in zip((TRAIN, HELD_OUT), state.usable, strict=True):
                _check_usable(name, found)
            counts = {name: writer.close() for name, writer in zip((TRAIN, HELD_OUT), writers, strict=True)}
        finally:
            for writer in writers:
                writer.abandon()
        return state, counts


def _add(portion: EncodedPortion, state: State, writers: list[ShardWriter], part_of: PartOf) -> None:
    """Gives each document of a portion to the writer of its part, and moves `state` past the portion."""
    count = len(portion.num_sentences)
    kept = portion.num_sentences > 0
    parts = part_of(state.documents, count)
    state.duplicates += int((kept & (parts == _IN_NO_PART)).sum())
    sentence_owner = np.repeat(np.arange(count), portion.num_sentences)
    num_tokens = np.bincount(sentence_owner, weights=portion.sentence_lengths, minlength=count).astype(np.int64)
    for part, writer in enumerate(writers):
        mine = kept & (parts == part)
        state.usable[part] += int((num_tokens[mine] > 1).sum())
        if mine.all():
            writer.add_documents(portion.tokens, portion.sentence_lengths, portion.num_sentences)
        elif mine.any():
            tokens = portion.tokens[np.repeat(mine, num_tokens)]
            writer.add_documents(tokens, portion.sentence_lengths[mine[sentence_owner]], portion.num_sentences[mine])
    state.documents += count
    state.documents_of_source += count
    state.by_length += portion.num_filtered
    state.place = portion.end


def _check_usable(part: str, count: int) -> None:
    """Raises InputError if too few documents of `part` can become an example, which takes two tokens."""
    if count < evaluation.FEWEST_IN_A_PART:
        raise InputError(
            f"the {part.replace('_', '-')} part has {count} document{'' if count == 1 else 's'} of two tokens or more: "
            f"at least {evaluation.FEWEST_IN_A_PART} are needed; give more text"
        )


def _in_portions(documents: Iterable[str]) -> Iterator[Portion]:
    count = 0
    for batch in in_batches(documents, len, _CHARACTERS_IN_A_PORTION):
        end = count + len(batch)
        yield Portion("texts", batch, "the documents", count + 1, Place(0, end, end + 1))
        count = end
