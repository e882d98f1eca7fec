"""The text of a run: where its shards lie, its vocabulary, and whether the model has room for its sequences."""

from pathlib import Path

from tokenizers import Tokenizer

from anybatch.data import prepare
from anybatch.data.shards import Shards, open_shards
from anybatch.errors import InputError
from anybatch.recipes.builtin_text import prepare_builtin_text
from anybatch.recipes.recipe import CausalRecipe, PretrainingRecipe
from anybatch.runs import Run


def open_text(recipe: PretrainingRecipe | CausalRecipe, run: Run) -> tuple[Path, Tokenizer, Shards]:
    """The run's folder of text, its vocabulary and its training shards.

    Without a `data.path`, the built-in text is prepared in the run folder.

    Raises:
        InputError: the folder is no prepared text, or has another kind of vocabulary than the recipe asks for; or a
            phase's sequences are longer than the model takes.
    """
    folder = data_folder(recipe, run)
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
    return folder, tokenizer, open_shards(folder / prepare.TRAIN)


def data_folder(recipe: PretrainingRecipe | CausalRecipe, run: Run) -> Path:
    """Where the run's shards lie."""
    return run.path / "data" if recipe.data.path is None else Path(recipe.data.path)
