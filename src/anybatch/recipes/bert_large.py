"""BERT at the sizes of its authors, with LAMB: the rows of the paper's table, its mixed batch, and NVIDIA's run.

Sources: You et al. 2020, arXiv 1904.00962 (the table of untuned LAMB, and the mixed batch); NVIDIA's
    DeepLearningExamples, PyTorch/LanguageModeling/BERT. Each recipe's `inferred` lists what they leave open.
"""

from dataclasses import replace
from typing import Any

from anybatch.recipes.recipe import (
    OptimizerSettings,
    PretrainedEncoderSettings,
    PretrainingRecipe,
    ReferenceSettings,
    TextPhaseSettings,
    TextSettings,
)

_LAMB = OptimizerSettings(name="lamb")
_MOMENTS: dict[str, Any] = {"betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.01}
_LARGE = PretrainedEncoderSettings(hidden_size=1024, num_layers=24, num_heads=16, max_positions=512, dropout=0.1)
_BASE = PretrainedEncoderSettings(hidden_size=768, num_layers=12, num_heads=12, max_positions=512, dropout=0.1)
_TEXT = TextSettings(source_vocabulary=30_522, short_seq_prob=0.1)
# The first row of the table: all others follow by the square-root and the linear-epoch rule.
_UNTUNED = ReferenceSettings(
    batch_size=512, lr=5 / (2**3 * 10**3), warmup_ratio=1 / 320, num_examples=512_000_000, join="global", **_MOMENTS
)
_CLIP = "max_grad_norm = 1.0 (as in the authors' BERT code)"
_DROPOUT = "model.dropout = 0.1 (BERT's own)"
_SHORT = "data.short_seq_prob = 0.1 (BERT's own)"


def bert_large_paper() -> PretrainingRecipe:
    """BERT-large with untuned LAMB, any row of the paper's table by --batch-size, 512 to 32768 (the default).

    At batch B: learning rate 5/(2^3.0 10^3) sqrt(B/512), warm-up ratio B/(320 * 512), 512,000,000 examples: 15,625
    steps at 32K, of which 3,125 warm up; then the learning rate is eta_0 (1 - t/T). LAMB has beta (0.9, 0.999),
    epsilon 1e-6, decay 0.01.
    """
    return PretrainingRecipe(
        name="bert-large-paper",
        inferred=(
            "phases.0.sequence_length = 128 throughout (the paper gives the last tenth of its epochs 512 tokens)",
            "phases.0.max_predictions = 20 (BERT's own)",
            _CLIP,
            _DROPOUT,
            _SHORT,
        ),
        optimizer=_LAMB,
        reference=_UNTUNED,
        phases=(TextPhaseSettings(batch_size=32_768, sequence_length=128, max_predictions=20),),
        data=_TEXT,
        model=_LARGE,
    )


def bert_large_mixed() -> PretrainingRecipe:
    """BERT-large in 76 minutes: batch 64K at sequences of 128 tokens, then 32K at 512, 8,599 steps, warmed up again.

    The paper gives nine tenths of the epochs to the first phase and warms up from zero at the switch.
    """
    num_examples, phases = _two_phases(7_037, 1_562)
    return PretrainingRecipe(
        name="bert-large-mixed",
        inferred=(
            "7,037 + 1,562 steps (the paper gives their sum, and nine tenths to the first phase)",
            "rates 7.07e-3 and 5e-3, warm-up ratios 0.4 and 0.2 (by the paper's rules from batch 512)",
            "phases.1.carry_over = reset_step (as in NVIDIA's code)",
            "max_predictions = 20 and 80 (BERT's own)",
            _CLIP,
            _DROPOUT,
            _SHORT,
        ),
        optimizer=_LAMB,
        reference=replace(_UNTUNED, num_examples=num_examples),
        phases=phases,
        data=_TEXT,
        model=_LARGE,
    )


def bert_large_nvidia() -> PretrainingRecipe:
    """BERT-large as NVIDIA trains it: 65,536 x 128 tokens, 7,038 steps at 6e-3, then 32,768 x 512, 1,563 at 4e-3.

    2,000 and 200 steps warm up; the learning rate decays as (1 - t/T)^0.5. LAMB has beta (0.9, 0.999), epsilon 1e-6,
    decay 0.01 except for biases and LayerNorm, and gradients clipped to norm 1.0. The second phase keeps the moments
    and resets the step count.
    """
    num_examples, phases = _two_phases(7_038, 1_563, lr=4e-3, warmup_ratio=0.128)
    return PretrainingRecipe(
        name="bert-large-nvidia",
        inferred=(_DROPOUT, _SHORT),
        optimizer=_LAMB,
        reference=ReferenceSettings(
            # NVIDIA writes 0.2843 and takes the whole part of 0.2843 * 7,038.
            batch_size=65_536, lr=6e-3, warmup_ratio=2_000 / 7_038, num_examples=num_examples, power=0.5,
            join="global", **_MOMENTS,
        ),
        phases=phases,
        max_grad_norm=1.0,
        data=_TEXT,
        model=_LARGE,
    )  # fmt: skip


def bert_base() -> PretrainingRecipe:
    """BERT-base with the paper's untuned LAMB, batch 4,096, sequences of 128 tokens.

    The paper trains only BERT-large; its reference is used unchanged.
    """
    large = bert_large_paper()
    return large.model_copy(
        update={
            "name": "bert-base",
            "inferred": ("reference (the paper's, for BERT-large)", *large.inferred),
            "phases": (replace(large.phases[0], batch_size=4096),),
            "model": _BASE,
        }
    )


def _two_phases(first_steps: int, second_steps: int, **second: Any) -> tuple[int, tuple[TextPhaseSettings, ...]]:
    """Returns the number of examples of 65,536 x 128 tokens, then 32,768 x 512, and the two phases."""
    num_examples = 65_536 * first_steps + 32_768 * second_steps
    share = 65_536 * first_steps / num_examples
    return num_examples, (
        TextPhaseSettings(batch_size=65_536, sequence_length=128, max_predictions=20, share=share),
        TextPhaseSettings(
            batch_size=32_768,
            sequence_length=512,
            max_predictions=80,
            share=32_768 * second_steps / num_examples,
            carry_over="reset_step",
            **second,
        ),
    )
