"""The text of a run: its shards, its vocabulary, and whether the model has room for its sequences."""

from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import ClassVar, TypeVar

from tokenizers import Tokenizer

from anybatch.data import prepare, vocabulary
from anybatch.data.batch import Batch, Source
from anybatch.data.shards import Shards, open_shards
from anybatch.errors import InputError
from anybatch.files import sha256
from anybatch.recipes.builtin_text import VOCABULARY_SIZES, prepare_builtin_text
from anybatch.recipes.phases import held_out_batches
from anybatch.recipes.recipe import CausalRecipe, CorpusSettings, PretrainingRecipe, TextPhaseSettings
from anybatch.recipes.task import Task
from anybatch.runs import Run

R = TypeVar("R", bound=PretrainingRecipe | CausalRecipe)


class TextTask(Task[R]):
    """A run on a folder of `anybatch data prepare`; without a `data.path`, on the built-in text in the run folder.

    Raises:
        InputError: the folder is no prepared text, or its kind of vocabulary is not the recipe's; or a phase's
            sequences are longer than the model takes.
    """

    model_name: ClassVar[str]

    def __init__(self, recipe: R, run: Run) -> None:
        super().__init__(recipe, run)
        data = recipe.data
        self.folder = folder = run.path / "data" if data.path is None else Path(data.path)
        if data.path is None and not folder.exists():
            prepare_builtin_text(folder, data.tokenizer or "wordpiece")
        found = prepare.kind_of(self.tokenizer)
        if data.tokenizer not in (None, found):
            raise InputError(
                f"data.tokenizer = {data.tokenizer!r}: {folder} has {found or 'another kind of vocabulary'}; prepare "
                f"the text with --tokenizer {data.tokenizer}, or set data.tokenizer=null to take what is there"
            )
        longest = max(phase.sequence_length for phase in recipe.phases)
        if longest > recipe.model.max_positions:
            raise InputError(
                f"a phase's sequence_length = {longest} is above model.max_positions = {recipe.model.max_positions}"
            )
        self.train = open_shards(folder / prepare.TRAIN)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        found, data = prepare.tokenizer_of(self.folder), self.recipe.data
        if data.builtin == "blank" and data.source_vocabulary is not None:
            missing = data.source_vocabulary - found.get_vocab_size()
            found.add_tokens([f"[unused{number}]" for number in range(missing)])
        return found

    @abstractmethod
    def examples(self, shards: Shards, phase: TextPhaseSettings, seed: int) -> Source:
        """Returns the examples of `shards` in a phase."""

    def source(self, phase: TextPhaseSettings) -> Source:
        return self.examples(self.train, phase, self.recipe.seed)

    @cached_property
    def held_out(self) -> list[Batch]:
        examples = self.examples(open_shards(self.folder / prepare.HELD_OUT), self.recipe.phases[-1], 0)
        return held_out_batches(examples, self.recipe.data.num_held_out, self.recipe.engine.evaluation_batch_size)

    def inputs(self) -> dict[str, str]:
        data = sha256(self.folder / prepare.TRAIN / "index.json")
        return {"vocabulary": vocabulary.fingerprint(self.tokenizer), "data": data}

    @classmethod
    def describe(cls, recipe: R) -> tuple[str, str]:
        lengths = " and ".join(dict.fromkeys(f"{phase.sequence_length:,}" for phase in recipe.phases))
        model = f"{cls.model_name} with {recipe.model.num_layers} layers of {recipe.model.hidden_size}"
        return model, f"{recipe.data.path or 'text that comes with Python'} in sequences of {lengths} tokens"


def vocabulary_size(data: CorpusSettings) -> int:
    """Returns the size of the vocabulary; reads only the tokenizer."""
    if data.path is not None:
        return prepare.tokenizer_of(Path(data.path)).get_vocab_size()
    return data.source_vocabulary or VOCABULARY_SIZES[data.tokenizer or "wordpiece"]
