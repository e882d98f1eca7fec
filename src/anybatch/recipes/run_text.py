"""The text of a run: its shards, its vocabulary, and whether the model has room for its sequences."""

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from anybatch.data import prepare, vocabulary
from anybatch.data.shards import Shards, open_shards
from anybatch.errors import InputError
from anybatch.files import sha256
from anybatch.recipes.builtin_text import VOCABULARY_SIZES, prepare_builtin_text
from anybatch.recipes.recipe import CausalRecipe, CorpusSettings, PretrainingRecipe
from anybatch.runs import Run


@dataclass(frozen=True)
class Text:
    """A folder that `anybatch data prepare` wrote."""

    folder: Path
    tokenizer: Tokenizer
    train: Shards

    @property
    def held_out(self) -> Shards:
        """The shards for evaluations."""
        return open_shards(self.folder / prepare.HELD_OUT)

    def fingerprints(self) -> dict[str, str]:
        """Returns what a checkpoint and the run must have in common, by name."""
        data = sha256(self.folder / prepare.TRAIN / "index.json")
        return {"vocabulary": vocabulary.fingerprint(self.tokenizer), "data": data}


def open_text(recipe: PretrainingRecipe | CausalRecipe, run: Run) -> Text:
    """Opens the run's text. Without a `data.path`, prepares the built-in text in the run folder.

    Raises:
        InputError: the folder is no prepared text, or its kind of vocabulary is not the recipe's; or a phase's
            sequences are longer than the model takes.
    """
    folder = run.path / "data" if recipe.data.path is None else Path(recipe.data.path)
    if recipe.data.path is None and not folder.exists():
        prepare_builtin_text(folder, recipe.data.tokenizer or "wordpiece")
    tokenizer = prepare.tokenizer_of(folder)
    asked, found = recipe.data.tokenizer, prepare.kind_of(tokenizer)
    if asked not in (None, found):
        raise InputError(
            f"data.tokenizer = {asked!r}: {folder} has {found or 'another kind of vocabulary'}; prepare the text with "
            f"--tokenizer {asked}, or set data.tokenizer=null to take what is there"
        )
    if recipe.data.builtin == "blank" and recipe.data.source_vocabulary is not None:
        missing = recipe.data.source_vocabulary - tokenizer.get_vocab_size()
        tokenizer.add_tokens([f"[unused{number}]" for number in range(missing)])
    longest = max(phase.sequence_length for phase in recipe.phases)
    if longest > recipe.model.max_positions:
        raise InputError(
            f"a phase's sequence_length = {longest} is above model.max_positions = {recipe.model.max_positions}"
        )
    return Text(folder, tokenizer, open_shards(folder / prepare.TRAIN))


def vocabulary_size(data: CorpusSettings) -> int:
    """Returns the size of the vocabulary; reads only the tokenizer."""
    if data.path is not None:
        return prepare.tokenizer_of(Path(data.path)).get_vocab_size()
    return data.source_vocabulary or VOCABULARY_SIZES[data.tokenizer or "wordpiece"]


def described(name: str, recipe: PretrainingRecipe | CausalRecipe) -> tuple[str, str]:
    """Describes the model, which is called `name`, and the data."""
    lengths = " and ".join(dict.fromkeys(f"{phase.sequence_length:,}" for phase in recipe.phases))
    model = f"{name} with {recipe.model.num_layers} layers of {recipe.model.hidden_size}"
    return model, f"{recipe.data.path or 'text that comes with Python'} in sequences of {lengths} tokens"
