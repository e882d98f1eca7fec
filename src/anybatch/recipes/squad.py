"""Fine-tuning on SQuAD v1.1 at full length."""

from anybatch.recipes.recipe import (
    EngineSettings,
    OptimizerSettings,
    PhaseSettings,
    QuestionSettings,
    QuestionsRecipe,
    ReferenceSettings,
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
        phases=(PhaseSettings(batch_size=32, sequence_length=384),),
        engine=EngineSettings(num_evals=2),
        data=QuestionSettings(stride=128, max_answer_length=30),
    )
