"""Runs of a left-to-right language model, on the same shards as BERT."""

import math
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from anybatch.data import vocabulary
from anybatch.data.causal import CausalSource
from anybatch.data.shards import Shards
from anybatch.engine import evaluate
from anybatch.engine.job import Scores
from anybatch.files import write_json
from anybatch.models.gpt import CausalModel, GptSettings, causal_flops, causal_model
from anybatch.recipes.recipe import CausalRecipe, TextPhaseSettings
from anybatch.recipes.run_text import TextTask, vocabulary_size
from anybatch.recipes.task import Outline, fresh, numbers

_START_TOKENS = 31
_SAMPLE_TOKENS = 160


class Causal(TextTask[CausalRecipe]):
    """Each token from those before it."""

    accuracies: ClassVar = {"lm": "next-token accuracy"}
    model_name = "GPT-2"

    @staticmethod
    def outline(recipe: CausalRecipe) -> Outline:
        settings = GptSettings(vocabulary_size=vocabulary_size(recipe.data), **vars(recipe.model))
        model = fresh(lambda: causal_model(settings, recipe.seed))
        return Outline(
            model, lambda phase, count: {"input_ids": numbers(count, phase.sequence_length)}, recipe.data.num_held_out
        )

    @cached_property
    def settings(self) -> GptSettings:
        return GptSettings(vocabulary_size=self.tokenizer.get_vocab_size(), **vars(self.recipe.model))

    def model(self) -> CausalModel:
        return fresh(lambda: causal_model(self.settings, self.recipe.seed))

    def examples(self, shards: Shards, phase: TextPhaseSettings, seed: int) -> CausalSource:
        return CausalSource(shards, self.tokenizer, phase.sequence_length)

    def flops(self, phase: TextPhaseSettings) -> float:
        return causal_flops(self.settings, phase.sequence_length)

    def summary(self) -> dict[str, Any]:
        words = [batch.inputs["input_ids"].numpy()[:, 1:].reshape(-1) for batch in self.held_out]
        separator = vocabulary.special_ids(self.tokenizer)["[SEP]"]
        return {"context_free_loss": self.train.frequency_loss(words, separator=separator)}

    def load(self, folder: Path) -> CausalModel:
        return CausalModel.load(folder)

    def scores(self, model: CausalModel, *, at_end: bool) -> Scores:
        """Returns loss, accuracy, and `perplexity`, which is exp of a token's mean loss.

        At the end writes RUN/sample.json: {"start": held-out text, "text": the model's continuation}.
        """
        if at_end:
            self._write_sample(model)
        found = evaluate(model, self.held_out)
        # exp overflows beyond 709; so bad a model has no useful perplexity.
        perplexity = math.exp(found.loss) if found.loss < 700 else math.inf
        return {"loss": found.loss, "perplexity": perplexity, "lm_accuracy": found.accuracy["lm"]}

    def _write_sample(self, model: CausalModel) -> None:
        window = self.recipe.phases[-1].sequence_length - 1
        start = self.held_out[0].inputs["input_ids"][0, : min(window, _START_TOKENS)].tolist()
        allowed = vocabulary.ordinary_ids(self.tokenizer).tolist()
        text = model.continued(start, _SAMPLE_TOKENS, window, allowed, self.recipe.seed)
        words = {"start": self.tokenizer.decode(start), "text": self.tokenizer.decode([*start, *text])}
        write_json(self.run.sample_file, {**words, "text": words["text"].removeprefix(words["start"])})
