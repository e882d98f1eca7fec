"""GPT-2 recipes: do the paper's rules carry over to another kind of model?"""

from dataclasses import replace

from anybatch.engine import Execution
from anybatch.models.gpt import DecoderSettings
from anybatch.recipes.recipe import (
    CausalRecipe,
    CorpusSettings,
    OptimizerSettings,
    ReferenceSettings,
    TextPhaseSettings,
)


def gpt_demo() -> CausalRecipe:
    """GPT, 2 layers of 64, on characters, windows of 32, LAMB: the model of `anybatch demo`.

    The reference's learning rate was tuned at batch 2 (benchmarks/tune_references.py); other batch sizes follow by the
    square-root rule and are not tuned.
    """
    return CausalRecipe(
        name="gpt-demo",
        optimizer=OptimizerSettings(name="lamb"),
        reference=ReferenceSettings(batch_size=2, lr=0.005, warmup_ratio=1 / 256, num_examples=32_768),
        phases=(TextPhaseSettings(batch_size=2, sequence_length=32),),
        data=CorpusSettings(tokenizer="characters"),
        # Reading takes less time than passing the data from a thread.
        engine=Execution(prefetch=False),
        model=DecoderSettings(hidden_size=64, num_layers=2, num_heads=2, max_positions=32),
    )


def gpt_demo_adamw() -> CausalRecipe:
    """The same model, data and rule with AdamW, from a reference tuned for AdamW on a grid of the same size."""
    lamb = gpt_demo()
    return lamb.model_copy(
        update={
            "name": "gpt-demo-adamw",
            "optimizer": OptimizerSettings(name="adamw"),
            "reference": replace(lamb.reference, lr=0.0028),
        }
    )


def gpt2_tiny() -> CausalRecipe:
    """GPT-2, 2 layers of 128, sequences of 128 tokens, LAMB, for your own text. The learning rate is not tuned."""
    return CausalRecipe(
        name="gpt2-tiny",
        inferred=("all of it: no source trains GPT-2 with LAMB",),
        optimizer=OptimizerSettings(name="lamb"),
        reference=ReferenceSettings(batch_size=32, lr=0.01, warmup_ratio=1 / 64, num_examples=500_000),
        phases=(TextPhaseSettings(batch_size=32, sequence_length=128),),
        model=DecoderSettings(hidden_size=128, num_layers=2, num_heads=2, max_positions=128),
    )


def gpt2_small() -> CausalRecipe:
    """GPT-2 small, 12 layers of 768, sequences of 1,024 tokens, batch 512, LAMB. The learning rate is not tuned.

    Source of the size: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, table 2.
    """
    return CausalRecipe(
        name="gpt2-small",
        inferred=("optimizer, reference and dropout: no source trains GPT-2 with LAMB",),
        optimizer=OptimizerSettings(name="lamb"),
        reference=ReferenceSettings(batch_size=512, lr=5 / 8000, warmup_ratio=1 / 320, num_examples=51_200_000),
        phases=(TextPhaseSettings(batch_size=512, sequence_length=1024),),
        data=CorpusSettings(source_vocabulary=50_257),
        model=DecoderSettings(hidden_size=768, num_layers=12, num_heads=12, max_positions=1024, dropout=0.1),
    )


def gpt2_medium() -> CausalRecipe:
    """GPT-2 medium, 24 layers of 1,024, sequences of 1,024 tokens, batch 512, LAMB. The learning rate is not tuned.

    Source of the size: Radford et al. 2019, Language Models are Unsupervised Multitask Learners, table 2.
    """
    small = gpt2_small()
    shape = replace(small.model, hidden_size=1024, num_layers=24, num_heads=16)
    return small.model_copy(update={"name": "gpt2-medium", "model": shape})
