"""Fine-tuning a pretrained encoder on extractive questions."""

from dataclasses import replace

from anybatch.engine import Execution
from anybatch.recipes.recipe import (
    OptimizerSettings,
    QuestionSettings,
    QuestionsRecipe,
    ReferenceSettings,
    TextPhaseSettings,
)


def squad() -> QuestionsRecipe:
    """SQuAD v1.1 from a pretrained run or folder (model.path): windows of 384 tokens, stride 128, 2 epochs, AdamW 3e-5.

    Source: the usual BERT settings, Devlin et al. 2019, arXiv 1810.04805, section 4.2 and appendix A.3.
    """
    return QuestionsRecipe(
        name="squad",
        inferred=("reference.warmup_ratio = 0.1 (as in the authors' code)",),
        optimizer=OptimizerSettings(name="adamw"),
        reference=ReferenceSettings(batch_size=32, lr=3e-5, warmup_ratio=0.1, num_epochs=2, join="global"),
        phases=(TextPhaseSettings(batch_size=32, sequence_length=384),),
        engine=Execution(num_evals=2),
        data=QuestionSettings(stride=128, max_answer_length=30),
    )


def squad_v2() -> QuestionsRecipe:
    """SQuAD v2.0, with unanswerable questions: as `squad`, the null threshold 0 (--set data.null_threshold=).

    Source: Devlin et al. 2019, arXiv 1810.04805, section 4.3: the score of no answer is [CLS]'s as both ends.
    """
    answerable = squad()
    return answerable.model_copy(
        update={
            "name": "squad-v2",
            "inferred": (
                *answerable.inferred,
                "data.null_threshold = 0 (the source takes the best on its development set)",
                "reference.lr, batch size (squad's: the source trains v2.0 at 5e-5 and 48)",
            ),
            "data": replace(answerable.data, unanswerable=True),
        }
    )


def squad_demo() -> QuestionsRecipe:
    """Fine-tunes a pretrained run (model.path) on extractive questions with AdamW; scores exact match and F1."""
    return QuestionsRecipe(
        name="squad-demo",
        optimizer=OptimizerSettings(name="adamw"),
        reference=ReferenceSettings(batch_size=16, lr=2e-3, warmup_ratio=0.1, num_epochs=4),
        phases=(TextPhaseSettings(batch_size=16, sequence_length=128),),
        engine=Execution(num_evals=2),
    )
