"""BERT recipes of small sizes: pretraining on text."""

from dataclasses import replace

from anybatch.recipes.recipe import (
    OptimizerSettings,
    PretrainedEncoderSettings,
    PretrainingRecipe,
    ReferenceSettings,
    TextPhaseSettings,
)


def bert_demo() -> PretrainingRecipe:
    """BERT, 2 layers of 64, sequences of 32 tokens, LAMB; small enough for a CPU.

    The reference's learning rate is the best of a grid at batch 16 (benchmarks/tune_references.py); other batch sizes
    follow by the square-root rule and are not tuned.
    """
    return PretrainingRecipe(
        name="bert-demo",
        optimizer=OptimizerSettings(name="lamb"),
        reference=ReferenceSettings(batch_size=16, lr=0.011, warmup_ratio=1 / 128, num_examples=32_768),
        phases=(TextPhaseSettings(batch_size=16, sequence_length=32),),
        model=PretrainedEncoderSettings(hidden_size=64, num_layers=2, num_heads=2, max_positions=128),
    )


def bert_demo_adamw() -> PretrainingRecipe:
    """The same model, data and rule with AdamW, from a reference tuned for AdamW on a grid of the same size."""
    lamb = bert_demo()
    return lamb.model_copy(
        update={
            "name": "bert-demo-adamw",
            "optimizer": OptimizerSettings(name="adamw"),
            "reference": replace(lamb.reference, lr=0.002),
        }
    )


def bert_tiny() -> PretrainingRecipe:
    """BERT, 2 layers of 128, sequences of 128 tokens, LAMB, for your own text. The learning rate is not tuned."""
    return PretrainingRecipe(
        name="bert-tiny",
        optimizer=OptimizerSettings(name="lamb"),
        reference=ReferenceSettings(batch_size=32, lr=0.01, warmup_ratio=1 / 64, num_examples=500_000),
        phases=(TextPhaseSettings(batch_size=32, sequence_length=128),),
        model=PretrainedEncoderSettings(hidden_size=128, num_layers=2, num_heads=2),
    )


def bert_mini() -> PretrainingRecipe:
    """BERT, 4 layers of 256, sequences of 128 tokens, LAMB, for your own text. The learning rate is not tuned."""
    return bert_tiny().model_copy(
        update={"name": "bert-mini", "model": PretrainedEncoderSettings(hidden_size=256, num_layers=4, num_heads=4)}
    )


def bert_small() -> PretrainingRecipe:
    """BERT, 4 layers of 512, sequences of 128 tokens, LAMB, for your own text. The learning rate is not tuned.

    Source of the sizes of tiny, mini and small: Turc et al. 2019, arXiv 1908.08962, table 1.
    """
    return bert_tiny().model_copy(
        update={"name": "bert-small", "model": PretrainedEncoderSettings(hidden_size=512, num_layers=4, num_heads=8)}
    )


def bert_mixed() -> PretrainingRecipe:
    """The paper's mixed batch at bert-mini's size: nine tenths of the examples at sequences of 128 tokens, then 512.

    The second phase has half the batch and warms up again. It keeps the moments and restarts their step count, as
    NVIDIA's BERT does. The learning rates are not tuned.
    """
    return bert_mini().model_copy(
        update={
            "name": "bert-mixed",
            "phases": (
                TextPhaseSettings(batch_size=64, sequence_length=128, share=0.9),
                TextPhaseSettings(
                    batch_size=32, sequence_length=512, share=0.1, warmup_ratio=0.1, carry_over="reset_step"
                ),
            ),
        }
    )
