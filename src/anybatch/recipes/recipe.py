"""What a recipe is: a frozen, typed, JSON-shaped description of a whole run.

An option is declared in the frozen dataclass of the room that owns it, with a line under it; what only recipes know is
declared here. Pydantic checks both where a recipe is made, and turns them into JSON and back (docs/adr/0001).
"""

import re
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Interval, Lt
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, TypeAdapter, ValidationError, model_validator

from anybatch.data.images.source import Mixing, Normalization
from anybatch.data.images.views import Cropping
from anybatch.data.mlm import MlmSettings
from anybatch.data.prepare import Kind
from anybatch.engine import Execution
from anybatch.engine.job import CarryOver
from anybatch.errors import InputError
from anybatch.models.bert import EncoderSettings
from anybatch.models.classifier import NetworkSettings
from anybatch.models.gpt import DecoderSettings
from anybatch.recipes.renamed import with_new_words
from anybatch.scaling import Reference

BatchSize = Annotated[int, Interval(ge=1, le=2**24)]
Tokens = Annotated[int, Interval(ge=1, le=2**17)]
_MOST_EXAMPLES = 10**15

NotNegative = Annotated[float, Ge(0)]
Ratio = Annotated[float, Ge(0), Lt(1)]


@dataclass(frozen=True, kw_only=True)
class OptimizerSettings:
    """The optimizer. Its lr, warmup_ratio, weight_decay and options act after scaling."""

    name: str
    """One of `OPTIMIZERS`, such as lamb, lars or adamw; or MODULE:CLASS, a class of your own."""
    lr: NotNegative | None = None
    """The peak learning rate of every phase; null: the reference's, scaled."""
    warmup_ratio: Ratio | None = None
    """The share of every phase's steps that warm up; null: the reference's, scaled."""
    weight_decay: NotNegative | None = None
    """The weight decay; null: the reference's, scaled."""
    adapt_excluded: bool = False
    """Give biases and normalization parameters, which are not decayed, a trust ratio, too."""
    decay_biases: bool = False
    """Decay and adapt biases like weights; exclude only the parameters of normalization layers."""
    blocks: dict[str, Annotated[int, Ge(1)]] = field(default_factory=dict)
    """{name suffix: n}: treat a parameter whose name has this suffix as n layers, equal slices along dimension 0."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the optimizer's constructor."""


@dataclass(frozen=True, kw_only=True)
class ReferenceSettings(Reference):
    """The tuned run that other batch sizes are scaled from. Moments of null are the optimizer's defaults."""

    weight_decay: float = 0.01
    """Weight decay at the reference's batch."""

    def _lacks(self, name: str) -> bool:
        """Null stands for the optimizer's own, which is known when a phase is planned."""
        return False


@dataclass(frozen=True, kw_only=True)
class PhaseSettings:
    """A stretch of the run at one global batch size."""

    batch_size: BatchSize
    """Examples a step, over all ranks and micro-batches."""
    share: Annotated[float, Interval(gt=0, le=1)] = 1.0
    """The share of the run's examples; those of all phases add up to 1."""
    lr: NotNegative | None = None
    """The peak learning rate, instead of the scaled one; optimizer.lr overrides it."""
    warmup_ratio: Ratio | None = None
    """The share of the phase's steps that warm up, instead of the scaled one."""
    carry_over: CarryOver = "keep"
    """What the optimizer keeps of the previous phase: everything, the moments with a new step count, or nothing."""
    lr_range: tuple[PositiveFloat, PositiveFloat] | None = None
    """A range test: lr grows exponentially from the first to the second multiple of it. Null: the schedule."""


@dataclass(frozen=True, kw_only=True)
class TextPhaseSettings(PhaseSettings):
    """A phase of a run on text."""

    sequence_length: Annotated[int, Interval(ge=16, le=2**17)]
    """Tokens of a sequence."""
    max_predictions: Tokens | None = None
    """The largest number of masked tokens in a sequence; null: as many as the masking rate gives."""


@dataclass(frozen=True, kw_only=True)
class ImagePhaseSettings(PhaseSettings):
    """A phase of a run on images."""

    image_size: Annotated[int, Interval(ge=4, le=2048)]
    """Width and height of an image, in pixels."""


@dataclass(frozen=True, kw_only=True)
class CorpusSettings:
    """Text."""

    path: str | None = None
    """A folder written by `anybatch data prepare`; null: text that comes with Python, prepared in the run folder."""
    builtin: Literal["python", "blank"] = "python"
    """The text used if there is no path. blank: Python's text, allowed for any batch size; only for timing a run."""
    tokenizer: Kind | None = None
    """The kind of vocabulary, which the folder must have; null: the folder's, wordpiece without a path."""
    source_vocabulary: Annotated[int, Interval(ge=1, le=2**22)] | None = None
    """The recipe's original vocabulary size; a dry run without a path uses it."""
    num_held_out: Annotated[int, Interval(ge=1, le=10**7)] = 1024
    """The largest number of held-out sequences for scoring the run."""

    @property
    def stand_in(self) -> str | None:
        """In words, the text of a dry run without a path, of the extent that the recipe's source had."""
        if self.path is not None or self.source_vocabulary is None:
            return None
        return f"Python's text, repeated, under a vocabulary of {self.source_vocabulary:,}"


@dataclass(frozen=True, kw_only=True)
class TextSettings(CorpusSettings, MlmSettings):
    """Text of which some words are masked."""


@dataclass(frozen=True, kw_only=True)
class QuestionSettings:
    """Extractive questions."""

    path: str | None = None
    """A file in SQuAD's layout; null: the questions that come with the package."""
    held_out_every: Annotated[int, Interval(ge=2, le=10**9)] = 5
    """Hold out every Nth article."""
    stride: Tokens = 80
    """Tokens between the starts of two windows of a long passage."""
    max_answer_length: Tokens = 12
    """The largest number of tokens in an answer."""
    unanswerable: bool = False
    """Some questions may have no answer, as in SQuAD v2.0."""
    null_threshold: float = 0.0
    """Predict "no answer" if its score exceeds the best answer's by more than this."""
    n_best: Annotated[int, Interval(ge=1, le=10**4)] = 20
    """The number of answers a question in nbest_predictions.json."""
    stand_in: ClassVar[None] = None


@dataclass(frozen=True, kw_only=True)
class PretrainedSettings:
    """A pretrained model."""

    path: str | None = None
    """A run folder of `anybatch train`, or a Hugging Face model folder with its tokenizer.json or vocab.txt."""


@dataclass(frozen=True, kw_only=True)
class PretrainedEncoderSettings(EncoderSettings):
    """The shape of a BERT encoder, and the weights that it starts from."""

    path: str | None = None
    """A Hugging Face folder with the run's first weights; its shape must be this one. Null: new weights."""


@dataclass(frozen=True, kw_only=True)
class ImageSettings(Normalization, Cropping, Mixing):
    """Labeled images, and what an example sees of one."""

    path: str | None = None
    """A folder of images: a tree of folders, tar shards, parquet or IDX files. Null: the `builtin` set."""
    builtin: Literal["digits", "blank"] | None = None
    """The images used if there is no path: the package's digits, or blank images, which are only for timing a run."""
    source_examples: Annotated[int, Interval(ge=1, le=10**8)] | None = None
    """The recipe's original number of images; a dry run without a path uses as many blank ones."""
    source_classes: Annotated[int, Interval(ge=1, le=10**6)] | None = None
    """The recipe's original number of classes."""
    folds: Annotated[int, Interval(ge=2, le=10**6)] = 5
    """If the data have no held-out images: the number of parts of the images, one of which is held out."""
    fold: Annotated[int, Ge(0)] = 0
    """The part that is held out, counted from 0."""

    @property
    def stand_in(self) -> str | None:
        """In words, the images of a dry run without a path, of the extent that the recipe's source had."""
        if self.path is not None or self.builtin is not None or self.source_examples is None:
            return None
        return f"{self.source_examples:,} blank images"

    def __post_init__(self) -> None:
        Normalization.__post_init__(self)
        Cropping.__post_init__(self)
        if self.builtin == "blank" and not self.source_examples:
            raise ValueError("blank images need source_examples, how many")


class RecipeSettings(BaseModel):
    """What every recipe has. An unknown or ill-typed field is an error, also in the dataclasses."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False, revalidate_instances="always"
    )

    name: str
    """The recipe's name."""
    inferred: tuple[str, ...] = ()
    """In words, what the recipe's source leaves open."""
    seed: int = Field(default=0, ge=0, lt=2**64)
    """Decides the new weights, the order of the examples, and what is drawn for each."""
    optimizer: OptimizerSettings
    """The optimizer, and what acts after scaling."""
    reference: ReferenceSettings
    """The tuned run, and the rule that carries it to other batch sizes."""
    phases: tuple[PhaseSettings, ...] = Field(min_length=1)
    """Stretches of the run, each at one batch size."""
    ramp: bool = False
    """The phases share one schedule and one warm-up, and no batch shrinks; --set ramp=32:2048 makes such phases."""
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    """Clip the gradient's global norm to this; null: no clipping."""
    engine: Execution = Execution()
    """How the run is cut, computed and watched."""
    held_out_part: Literal["all", "tuning", "reported"] = "all"
    """What evaluations see: all held-out batches, or every other one; a study tunes on one half, reports the other."""

    @model_validator(mode="after")
    def _whole_run(self) -> Self:
        if self.reference.length(1) > _MOST_EXAMPLES:
            raise ValueError(f"reference: the run's length must be at most {_MOST_EXAMPLES:,} examples or epochs")
        if abs(sum(phase.share for phase in self.phases) - 1) > 1e-6:
            raise ValueError("the shares of the phases must add up to 1")
        if self.ramp:
            self._check_ramp()
        return self

    def _check_ramp(self) -> None:
        """A phase or optimizer with a rate of its own would break the one schedule that the phases share."""
        remedy = "a ramp has one schedule: set reference.lr and reference.warmup_ratio"
        for number, phase in enumerate(self.phases):
            if phase.lr is not None or phase.warmup_ratio is not None or phase.carry_over != "keep":
                raise ValueError(f"phases.{number} sets lr, warmup_ratio or carry_over, but {remedy}")
        if self.optimizer.lr is not None or self.optimizer.warmup_ratio is not None:
            raise ValueError(f"optimizer.lr or optimizer.warmup_ratio is set, but {remedy}")


class PretrainingRecipe(RecipeSettings):
    """Masked words and next sentence on text."""

    task: Literal["pretraining"] = "pretraining"
    phases: tuple[TextPhaseSettings, ...] = Field(min_length=1)
    data: TextSettings = TextSettings()
    """Text, and what is drawn for an example of it."""
    model: PretrainedEncoderSettings
    """The shape of the encoder."""


class QuestionsRecipe(RecipeSettings):
    """Extractive question answering, from a pretrained encoder."""

    task: Literal["questions"] = "questions"
    phases: tuple[TextPhaseSettings, ...] = Field(min_length=1)
    data: QuestionSettings = QuestionSettings()
    """The questions."""
    model: PretrainedSettings = PretrainedSettings()
    """The pretrained encoder."""


class ImageRecipe(RecipeSettings):
    """Telling classes of images apart."""

    task: Literal["images"] = "images"
    phases: tuple[ImagePhaseSettings, ...] = Field(min_length=1)
    data: ImageSettings
    """The images, and what an example sees of one."""
    model: NetworkSettings
    """The network."""


class CausalRecipe(RecipeSettings):
    """Each token from those before it, on text."""

    task: Literal["causal"] = "causal"
    phases: tuple[TextPhaseSettings, ...] = Field(min_length=1)
    data: CorpusSettings = CorpusSettings()
    """Text."""
    model: DecoderSettings
    """The shape of the decoder."""


Recipe = PretrainingRecipe | QuestionsRecipe | CausalRecipe | ImageRecipe
_RECIPE: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="task")])


def from_json(values: dict[str, Any]) -> Recipe:
    """The recipe whose `model_dump` is `values`; InputError names the first field that is wrong."""
    try:
        return _RECIPE.validate_python(with_new_words(values))
    except ValidationError as error:
        first = error.errors()[0]
        # The first part of a location is the task that selected the class, not a field.
        field = ".".join(str(part) for part in first["loc"][1:]) or "task"
        shown = f" = {first['input']!r}" if not isinstance(first["input"], dict) else ""
        message = first["msg"].removeprefix("Value error, ")
        # What a dataclass says of its own field begins with the field's name.
        own = re.match(r"\w+ ?=", message) and isinstance(first["input"], dict) and field != "task"
        raise InputError(f"{field}.{message}" if own else f"{field}{shown}: {message}") from None
