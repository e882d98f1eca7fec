"""BERT recipes: pretraining on text, and fine-tuning on questions."""

from anybatch.recipes.recipe import (
    EncoderSettings,
    OptimizerSettings,
    PhaseSettings,
    PretrainingRecipe,
    QuestionsRecipe,
    ReferenceSettings,
)

_TINY = EncoderSettings(hidden_size=128, num_layers=2, num_heads=2, max_positions=128)


def bert_tiny() -> PretrainingRecipe:
    """BERT, 2 layers of 128: LAMB, masked words and next sentence, sequence 64; minutes on a CPU.

    The reference was tuned by benchmarks/tune_references.py; other batch sizes follow from it by the square-root rule.
    """
    return PretrainingRecipe(
        name="bert-tiny",
        optimizer=OptimizerSettings(name="lamb"),
        reference=ReferenceSettings(batch_size=8, lr=0.006, warmup_ratio=0.05, num_examples=24_000),
        phases=(PhaseSettings(batch_size=8, sequence_length=64),),
        model=_TINY,
    )


def bert_tiny_adamw() -> PretrainingRecipe:
    """The same model and data with AdamW, from a reference tuned for AdamW."""
    return bert_tiny().model_copy(
        update={
            "name": "bert-tiny-adamw",
            "optimizer": OptimizerSettings(name="adamw"),
            "reference": ReferenceSettings(batch_size=8, lr=0.001, warmup_ratio=0.05, num_examples=24_000),
        }
    )


def bert_mini() -> PretrainingRecipe:
    """BERT, 4 layers of 256: LAMB, sequence 128; an evening on a CPU, minutes on a GPU. The rate is not tuned."""
    return bert_tiny().model_copy(
        update={
            "name": "bert-mini",
            "reference": ReferenceSettings(batch_size=32, lr=0.005, warmup_ratio=0.02, num_examples=500_000),
            "phases": (PhaseSettings(batch_size=32, sequence_length=128),),
            "model": EncoderSettings(hidden_size=256, num_layers=4, num_heads=4, max_positions=512),
        }
    )


def squad_tiny() -> QuestionsRecipe:
    """Fine-tunes a pretrained run (model.path) on extractive questions with AdamW, and scores exact match and F1."""
    return QuestionsRecipe(
        name="squad-tiny",
        optimizer=OptimizerSettings(name="adamw"),
        reference=ReferenceSettings(batch_size=16, lr=1e-3, warmup_ratio=0.1, num_epochs=6),
        phases=(PhaseSettings(batch_size=16, sequence_length=128),),
    )
