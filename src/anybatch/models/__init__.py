"""What learns: thin builders over transformers, and the loss on the positions that carry a target alone."""

from anybatch.models.bert import BertSettings, PretrainingModel, pretraining_flops, pretraining_model
from anybatch.models.classifier import (
    Architecture,
    ClassifierSettings,
    ImageClassifier,
    classifier_flops,
    has_batch_norm,
    image_classifier,
)
from anybatch.models.question_answering import QuestionAnsweringModel, question_answering_model
from anybatch.models.tokenizer import save_tokenizer

__all__ = [
    "Architecture",
    "BertSettings",
    "ClassifierSettings",
    "ImageClassifier",
    "PretrainingModel",
    "QuestionAnsweringModel",
    "classifier_flops",
    "has_batch_norm",
    "image_classifier",
    "pretraining_flops",
    "pretraining_model",
    "question_answering_model",
    "save_tokenizer",
]
