"""What learns: thin builders over transformers, and the loss only on the positions that carry a target."""

from anybatch.models.bert import BertSettings, EncoderSettings, PretrainingModel, pretraining_flops, pretraining_model
from anybatch.models.classifier import (
    Architecture,
    ClassifierSettings,
    ImageClassifier,
    NetworkSettings,
    classifier_flops,
    has_batch_norm,
    image_classifier,
)
from anybatch.models.gpt import CausalModel, DecoderSettings, GptSettings, causal_flops, causal_model
from anybatch.models.pretrained import fingerprint as weights_fingerprint
from anybatch.models.pretrained import save_tokenizer
from anybatch.models.question_answering import (
    QuestionAnsweringModel,
    question_answering_model,
    untrained_question_answering_model,
)

__all__ = [
    "Architecture",
    "BertSettings",
    "CausalModel",
    "ClassifierSettings",
    "DecoderSettings",
    "EncoderSettings",
    "GptSettings",
    "ImageClassifier",
    "NetworkSettings",
    "PretrainingModel",
    "QuestionAnsweringModel",
    "causal_flops",
    "causal_model",
    "classifier_flops",
    "has_batch_norm",
    "image_classifier",
    "pretraining_flops",
    "pretraining_model",
    "question_answering_model",
    "save_tokenizer",
    "untrained_question_answering_model",
    "weights_fingerprint",
]
