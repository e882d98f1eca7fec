"""What a recipe is: a frozen, typed, JSON-shaped description of a whole run."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, TypeAdapter, ValidationError, model_validator

from anybatch.engine import Execution
from anybatch.errors import InputError
from anybatch.scaling import Reference, Scaled
from anybatch.scaling.presets import EpsRule, LrRule, MomentRule, Rule, WarmupRule, WeightDecayRule
from anybatch.scaling.rules import Preset

_MOST_EXAMPLES = 10**15


class Settings(BaseModel):
    """Frozen; an unknown or ill-typed field is an error. So are those of the rooms' dataclasses in it."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False, revalidate_instances="always"
    )


Beta = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSettings(Settings):
    """`lr`, `warmup_ratio`, `weight_decay` and `options` act after scaling; those not set are what the reference gives.

    `name`: an optimizer of the table, or MODULE:CLASS. `options`: arguments of its constructor. `adapt_excluded`: what
    is not decayed has a trust ratio, too. `decay_biases`: biases are decayed and adapted like weights; only parameters
    of normalisation layers are excluded. `blocks`: {name suffix: n}: parameters whose name has this suffix are treated
    as n layers (equal slices along dimension 0) by LAMB, LARS and layerwise-*.
    """

    name: str
    lr: float | None = Field(default=None, ge=0)
    warmup_ratio: float | None = Field(default=None, ge=0, lt=1)
    weight_decay: float | None = Field(default=None, ge=0)
    adapt_excluded: bool = False
    decay_biases: bool = False
    blocks: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    options: dict[str, Any] = Field(default_factory=dict)


class ReferenceSettings(Settings):
    """The tuned run that other batch sizes are scaled from; its length in examples, or in epochs of the data.

    `betas`, `momentum`, `eps`: what was tuned beside lr; null: the optimizer's defaults. `rule`: how lr, moments, eps,
    weight decay and warm-up follow the batch; `lr_rule` and the like: one part of it in place of the preset's.
    """

    batch_size: int = Field(ge=1, le=2**24)
    lr: float = Field(gt=0)
    warmup_ratio: float = Field(ge=0, lt=1)
    num_examples: int | None = Field(default=None, ge=1, le=_MOST_EXAMPLES)
    num_epochs: float | None = Field(default=None, gt=0, le=1e6)
    betas: tuple[Beta, Beta] | None = None
    momentum: Beta | None = None
    eps: float | None = Field(default=None, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    rule: Preset = "sqrt"
    lr_rule: LrRule | None = None
    beta1_rule: MomentRule | None = None
    beta2_rule: MomentRule | None = None
    eps_rule: EpsRule | None = None
    weight_decay_rule: WeightDecayRule | None = None
    warmup_rule: WarmupRule | None = None
    power: float = Field(default=1.0, gt=0)
    join: Literal["continuous", "global"] = "continuous"

    @model_validator(mode="after")
    def _one_length(self) -> "ReferenceSettings":
        self._reference(self.batch_size)
        if (self.num_examples is None) == (self.num_epochs is None):
            raise ValueError("give one of num_examples and num_epochs, and set the other to null")
        if self.num_examples is not None and self.num_examples < self.batch_size:
            raise ValueError(
                f"num_examples = {self.num_examples} is below batch_size = {self.batch_size}, one step of the "
                "reference: give more examples, or lower reference.batch_size with its lr"
            )
        return self

    def at(self, batch_size: int, share: float, epoch_examples: int, **tuned: Any) -> Scaled:
        """The settings for `batch_size`, over `share` of the run's length, with `epoch_examples` examples an epoch.

        `tuned`: betas, momentum or eps in place of the reference's own.
        """
        return self.over(share, epoch_examples, **tuned).at(batch_size)

    def over(self, share: float, epoch_examples: int, **tuned: Any) -> Reference:
        """The reference of `share` of the run's length; see `at`."""
        length = self.num_examples if self.num_epochs is None else self.num_epochs * epoch_examples
        assert length is not None
        num_examples = max(1, round(length * share))
        if num_examples < self.batch_size:
            raise ValueError(
                f"{num_examples:,} examples are fewer than reference.batch_size = {self.batch_size:,}, one step of the "
                "reference: give more data or a longer run, or lower reference.batch_size with its lr"
            )
        return self._reference(num_examples, **tuned)

    @property
    def parts(self) -> Rule:
        """The rule, part by part."""
        return self._reference(self.batch_size).parts

    def _reference(self, num_examples: int, **tuned: Any) -> Reference:
        values = self.model_dump(exclude={"num_examples", "num_epochs"})
        if self.betas is None and self.momentum is None and not tuned:
            # Null stands for the optimizer's own, which whoever asks for the moments gives.
            tuned = {"betas": (0.9, 0.999), "eps": 1e-8 if self.eps is None else self.eps}
        return Reference(**{**values, **tuned, "num_examples": num_examples})


class StretchSettings(Settings):
    """A stretch of the run at one global batch size; `share` of its examples.

    `lr` and `warmup_ratio` act after scaling, before those of `optimizer`. `lr_range`: a range test instead of the
    schedule; the learning rate grows exponentially from the first to the second multiple of lr. `carry_over`: what the
    optimizer brings from the phase before: everything, its moments with their steps counted anew, or nothing.
    """

    batch_size: int = Field(ge=1, le=2**24)
    share: float = Field(default=1.0, gt=0, le=1)
    lr: float | None = Field(default=None, ge=0)
    warmup_ratio: float | None = Field(default=None, ge=0, lt=1)
    carry_over: Literal["keep", "reset_step", "new"] = "keep"
    lr_range: tuple[PositiveFloat, PositiveFloat] | None = None


class PhaseSettings(StretchSettings):
    """Of a run on text: `sequence_length` in tokens."""

    sequence_length: int = Field(ge=16, le=2**17)
    max_predictions: int | None = Field(default=None, ge=1, le=2**17)


class ImagePhaseSettings(StretchSettings):
    """Of a run on images: they are `image_size` pixels wide and high."""

    image_size: int = Field(ge=4, le=2048)


class CorpusSettings(Settings):
    """`path`: a folder written by `anybatch data prepare`; null: text that comes with Python, prepared in the run.

    `tokenizer`: the kind of vocabulary; a prepared folder must have it. Null: the folder's, WordPiece without a path.
    `source_vocabulary`: the size of the vocabulary that the recipe was made for. Where a dry run has no path, "blank"
    text stands in: Python's, as if it were enough for any batch, under a vocabulary of that size. `num_held_out`: the
    held-out sequences that the run is scored on, at most.
    """

    path: str | None = None
    builtin: Literal["python", "blank"] = "python"
    tokenizer: Literal["wordpiece", "characters", "bytes"] | None = None
    source_vocabulary: int | None = Field(default=None, ge=1, le=2**22)
    num_held_out: int = Field(default=1024, ge=1, le=10**7)


class TextSettings(CorpusSettings):
    """Of masked words; see `data.mlm`."""

    masking_rate: float = Field(default=0.15, gt=0, lt=1)
    whole_words: bool = False
    objective: Literal["next_sentence", "sentence_order", "full_sentences"] = "next_sentence"
    short_probability: float = Field(default=0.0, ge=0, le=1)
    packed: bool = False


class EncoderSettings(Settings):
    """The shape of a BERT encoder; `path`: a Hugging Face folder whose weights the run starts from, of that shape.

    `pre_norm`: layers are normalised before what they compute (Pre-LN), which very large batches may need.
    """

    path: str | None = None
    hidden_size: int = Field(ge=1, le=2**16)
    num_layers: int = Field(ge=1, le=1024)
    num_heads: int = Field(ge=1, le=2**16)
    max_positions: int = Field(default=512, ge=16, le=2**17)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    pre_norm: bool = False


class QuestionSettings(Settings):
    """`path`: a file in SQuAD layout; null: the questions that come with the package. Windows in tokens.

    `unanswerable`: some questions may have no answer, as in SQuAD v2.0; one is left unanswered where that scores more
    than `null_threshold` above its best answer. `n_best`: answers listed of each question.
    """

    path: str | None = None
    held_out_every: int = Field(default=5, ge=2, le=10**9)
    stride: int = Field(default=80, ge=1, le=2**17)
    max_answer_length: int = Field(default=12, ge=1, le=2**17)
    unanswerable: bool = False
    null_threshold: float = 0.0
    n_best: int = Field(default=20, ge=1, le=10**4)


class DecoderSettings(Settings):
    """The shape of a GPT-2."""

    hidden_size: int = Field(ge=1, le=2**16)
    num_layers: int = Field(ge=1, le=1024)
    num_heads: int = Field(ge=1, le=2**16)
    max_positions: int = Field(default=1024, ge=16, le=2**17)
    dropout: float = Field(default=0.0, ge=0, lt=1)


class PretrainedSettings(Settings):
    """`path`: a run folder of `anybatch train`, or a Hugging Face model folder with its tokenizer.json or vocab.txt."""

    path: str | None = None


class ImageSettings(Settings):
    """Labelled images, and what an example sees of one; see `data.images`.

    `path`: a folder in a layout that `find_images` knows; null: the `builtin` set. `source_examples` and
    `source_classes`: what the recipe was made for; so many "blank" images stand in where a dry run has no path. `mean`
    and `std`: of each channel, of pixels from 0 to 1. Where the data have no part of their own for evaluation, part
    `fold` of `folds` is held out.

    `crop`: "none"; "padded" by `padding` pixels of the mean colour or of the reflection, then a random window;
    "resized": a random rectangle of at least `smallest_area`, in evaluation the middle `centre` of the shorter side.
    "none" and "padded" keep the decoded images in memory. `hole`: pixels of cutout. `mixup`, `cutmix`: alpha, 0: never.
    """

    path: str | None = None
    builtin: Literal["digits", "blank"] | None = None
    source_examples: int | None = Field(default=None, ge=1, le=10**8)
    source_classes: int | None = Field(default=None, ge=1, le=10**6)
    mean: tuple[float, ...] = Field(min_length=1, max_length=3)
    std: tuple[float, ...] = Field(min_length=1, max_length=3)
    folds: int = Field(default=5, ge=2, le=10**6)
    fold: int = Field(default=0, ge=0)
    crop: Literal["none", "padded", "resized"] = "none"
    padding: int = Field(default=0, ge=0, le=4096)
    padded_with: Literal["mean", "reflection"] = "mean"
    smallest_area: float = Field(default=0.08, gt=0, le=1)
    centre: float = Field(default=0.875, gt=0, le=1)
    flip: bool = False
    hole: int = Field(default=0, ge=0, le=4096)
    mixup: float = Field(default=0.0, ge=0, le=1000)
    cutmix: float = Field(default=0.0, ge=0, le=1000)

    @model_validator(mode="after")
    def _channels(self) -> "ImageSettings":
        if self.builtin == "blank" and not self.source_examples:
            raise ValueError("blank images need source_examples, how many")
        if len(self.mean) != len(self.std) or len(self.mean) == 2 or min(self.std) <= 0:
            raise ValueError("mean and std need one value each for grey images or three for colours, and std above 0")
        return self


class NetworkSettings(Settings):
    """An image network; see `models.ClassifierSettings`.

    `batch_norm_group`: how many examples BatchNorm takes its statistics over. A global batch is parted into the fewest
    groups of at most so many, of about one size, and a forward pass sees one of them, so that no cut over ranks changes
    the result; `engine.micro_batch_size` does not act. Null for a network without BatchNorm alone. `width`: channels of
    the first layer of resnet20 or davidnet, all others in proportion; null: the source's.
    """

    architecture: Literal["lenet", "resnet20", "davidnet", "resnet50"]
    batch_norm_group: int | None = Field(default=None, ge=2, le=2**24)
    width: int | None = Field(default=None, ge=1, le=4096)
    zero_init: bool = False
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)


class RecipeSettings(Settings):
    """What every recipe has.

    `inferred`: in words, what its source does not say. `ramp`: the phases are stretches of one schedule, with one
    warm-up, and no batch is smaller than the one before (--set ramp=32:2048 makes such phases); false: each phase warms
    up and decays by itself. `held_out_part`: what the evaluations see, all held-out batches
    or every other one.
    """

    name: str
    inferred: tuple[str, ...] = ()
    seed: int = Field(default=0, ge=0, lt=2**64)
    optimizer: OptimizerSettings
    reference: ReferenceSettings
    phases: tuple[StretchSettings, ...] = Field(min_length=1)
    ramp: bool = False
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    engine: Execution = Execution()
    held_out_part: Literal["all", "tuning", "reported"] = "all"

    @model_validator(mode="after")
    def _whole_run(self) -> "RecipeSettings":
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
    phases: tuple[PhaseSettings, ...] = Field(min_length=1)
    data: TextSettings = TextSettings()
    model: EncoderSettings


class QuestionsRecipe(RecipeSettings):
    """Extractive question answering, from a pretrained encoder."""

    task: Literal["questions"] = "questions"
    phases: tuple[PhaseSettings, ...] = Field(min_length=1)
    data: QuestionSettings = QuestionSettings()
    model: PretrainedSettings = PretrainedSettings()


class ImageRecipe(RecipeSettings):
    """Telling classes of images apart."""

    task: Literal["images"] = "images"
    phases: tuple[ImagePhaseSettings, ...] = Field(min_length=1)
    data: ImageSettings
    model: NetworkSettings


class CausalRecipe(RecipeSettings):
    """Each token from those before it, on text."""

    task: Literal["causal"] = "causal"
    phases: tuple[PhaseSettings, ...] = Field(min_length=1)
    data: CorpusSettings = CorpusSettings()
    model: DecoderSettings


Recipe = PretrainingRecipe | QuestionsRecipe | CausalRecipe | ImageRecipe
_RECIPE: TypeAdapter[Recipe] = TypeAdapter(Annotated[Recipe, Field(discriminator="task")])


def from_json(values: dict[str, Any]) -> Recipe:
    """The recipe whose `model_dump` is `values`; InputError names the first field that is wrong."""
    try:
        return _RECIPE.validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        # The first part of a location is the task that selected the class, not a field.
        field = ".".join(str(part) for part in first["loc"][1:]) or "task"
        shown = f" = {first['input']!r}" if not isinstance(first["input"], dict) else ""
        raise InputError(f"{field}{shown}: {first['msg'].removeprefix('Value error, ')}") from None
