"""BERT whose layers normalize before they compute, not after (Pre-LN), with the heads of pretraining.

    x + Attention(LayerNorm(x))      x + FeedForward(LayerNorm(x))      a LayerNorm behind the last layer

It is transformers' `RobertaPreLayerNorm`, whose folders `AutoModel` and its relatives load. It adds BERT's second
head, for the relation of two sentences, which transformers lacks. Source: Xiong et al. 2020, arXiv 2002.04745.
"""

from typing import Any

from torch import nn
from transformers import RobertaPreLayerNormForMaskedLM
from transformers.models.roberta_prelayernorm.modeling_roberta_prelayernorm import RobertaPreLayerNormPooler


class PreNormForPreTraining(RobertaPreLayerNormForMaskedLM):  # type: ignore[misc]
    """`RobertaPreLayerNormForMaskedLM` with a pooler and a `seq_relationship` head, as in `BertForPreTraining`."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.roberta_prelayernorm.pooler = RobertaPreLayerNormPooler(config)
        self.seq_relationship = nn.Linear(config.hidden_size, 2)
        self.post_init()
