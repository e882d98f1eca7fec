"""BERT with its layers normalised before what they compute, not behind (Pre-LN), and with the heads of pretraining.

    x + Attention(LayerNorm(x))      x + FeedForward(LayerNorm(x))      a LayerNorm behind the last layer

It is transformers' `RobertaPreLayerNorm`, whose folders `AutoModel` and its kin load, with BERT's second head, which
transformers has not: for the relation of two sentences. Source: Xiong et al. 2020, arXiv 2002.04745.
"""

from typing import Any

from torch import nn
from transformers import RobertaPreLayerNormForMaskedLM
from transformers.models.roberta_prelayernorm.modeling_roberta_prelayernorm import RobertaPreLayerNormPooler


class PreNormForPreTraining(RobertaPreLayerNormForMaskedLM):  # type: ignore[misc]
    """`RobertaPreLayerNormForMaskedLM` with a pooler and `seq_relationship` on it, as `BertForPreTraining` has them."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.roberta_prelayernorm.pooler = RobertaPreLayerNormPooler(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)
        self.post_init()
