"""What a recipe says of its execution."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class Settings(BaseModel):
    """Frozen; an unknown or ill-typed field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class FsdpSettings(Settings):
    """What parallel = fsdp leaves open: see torch's `fully_shard`."""

    param_dtype: Literal["fp32", "bf16"] = "fp32"
    reshard_after_forward: bool = True


class EngineSettings(Settings):
    """How the run is executed and watched; none of it changes the result beyond rounding, so a resumed run may differ.

    What is "auto" is decided by the device, printed, and recorded at the run's start.

    `micro_batch_size`: examples in one forward pass on one rank; auto: what fits on the GPU, 32 on a CPU.
    `parallel`: auto is none on one process, ddp beyond.
    `precision`: of the forward pass; auto: on a GPU bf16 if it has units for it, else fp16 with loss scaling if it has
    those, else tf32; fp32 on a CPU. tf32: fp32 values in products of ten bits.
    `gradient_dtype`: what gradients are summed over ranks in.
    `compile`: the repeated layers; auto: on a GPU on which Triton can.
    `deterministic`: on a GPU the same bits for the same run, with slower kernels; a CPU gives them in any case.
    `channels_last`: the memory format of convolutions; auto: on a GPU.
    `cudnn_search`: cuDNN tries its convolutions; auto: on a GPU, if not deterministic.
    `cudnn_attention`: cuDNN may compute attention, for every new shape of which it makes a plan.
    `keep_best`: checkpoints kept for their held-out loss, beside the newest.
    `async_checkpoints`: written while the run goes on, from a copy in the host's memory.
    `max_skipped_steps`: steps in a row without a finite gradient after which the run gives up. `hang_timeout_s`: how
    long a rank may stand still. `noise_every`: steps between measurements of the gradient noise; 0: none.
    `noise_detail`: the noise is recorded of each layer, and preconditioned, too.
    `evaluate_at`: steps after which the run is evaluated, beside `num_evals` evenly spread ones.
    `stop_after_steps`: the run saves itself and stops after this step of all phases.
    """

    micro_batch_size: Annotated[int, Field(ge=1, le=2**24)] | Literal["auto"] = "auto"
    num_evals: int = Field(default=10, ge=1, le=10**9)
    evaluate_at: tuple[int, ...] = ()
    num_trust_ratios: int = Field(default=50, ge=1, le=10**9)
    checkpoint_every_steps: int = Field(default=500, ge=1, le=10**9)
    keep_last: int = Field(default=2, ge=1, le=10**9)
    keep_best: int = Field(default=0, ge=0, le=10**9)
    async_checkpoints: bool = False
    parallel: Literal["auto", "none", "ddp", "fsdp"] = "auto"
    precision: Literal["auto", "fp32", "tf32", "bf16", "fp16"] = "auto"
    gradient_dtype: Literal["fp32", "bf16"] = "fp32"
    activation_checkpointing: bool = False
    compile: bool | Literal["auto"] = "auto"
    deterministic: bool = False
    channels_last: bool | Literal["auto"] = "auto"
    cudnn_search: bool | Literal["auto"] = "auto"
    cudnn_attention: bool = False
    fsdp: FsdpSettings = FsdpSettings()
    prefetch: bool = True
    max_skipped_steps: int = Field(default=20, ge=1, le=10**9)
    hang_timeout_s: float = Field(default=600.0, gt=0, le=1e8)
    noise_every: int = Field(default=100, ge=0, le=10**9)
    noise_detail: bool = False
    stop_after_steps: int | None = Field(default=None, ge=1)

    @field_validator("parallel", mode="before")
    @classmethod
    def _none_is_a_name(cls, value: Any) -> Any:
        """On the command line, none stands for null."""
        return "none" if value is None else value

    @property
    def evaluation_batch_size(self) -> int:
        """Examples in one forward pass of an evaluation, which needs less memory than training."""
        return 32 if self.micro_batch_size == "auto" else self.micro_batch_size
