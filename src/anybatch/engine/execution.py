"""How a run is executed: the options of the engine, each declared here and nowhere else."""

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Interval

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Choice = bool | Literal["auto"]
Count = Annotated[int, Interval(ge=1, le=10**9)]


@dataclass(frozen=True)
class Fsdp:
    """What `parallel` = fsdp leaves open; see torch's `fully_shard`."""

    param_dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """The dtype in which parameters are gathered and computed with; auto: bf16 if weights are kept in it."""
    reshard_after_forward: bool = True
    """Free gathered parameters between the forward and the backward pass: less memory, one more gathering."""


@dataclass(frozen=True)
class Execution:
    """How a run is cut, computed and watched.

    These options change the result only by rounding; a resumed run may use different ones. The engine decides what is
    "auto", prints it, and records it at the run's start.
    """

    micro_batch_size: Annotated[int, Interval(ge=1, le=2**24)] | Literal["auto"] = "auto"
    """Examples in one forward pass on one rank; auto: what fits on the GPU, 32 on a CPU."""
    num_evals: Count = 10
    """Evaluations on the held-out data, spread evenly over the run."""
    evaluate_at: tuple[int, ...] = ()
    """Steps after which the run is evaluated, besides those of `num_evals`."""
    num_trust_ratios: Count = 50
    """Recordings of every layer's trust ratio, spread evenly over the run."""
    checkpoint_every_steps: Count = 500
    """Steps between checkpoints."""
    keep_last: Count = 2
    """Newest checkpoints to keep."""
    keep_best: Annotated[int, Interval(ge=0, le=10**9)] = 0
    """Checkpoints with the lowest held-out loss to keep, besides the newest."""
    async_checkpoints: bool = False
    """Copy the state to the host's memory, and write it while the run continues."""
    parallel: Literal["auto", "none", "ddp", "fsdp"] = "auto"
    """Whole copies of the model (ddp) or shards of it (fsdp); auto: none on one process, ddp on several."""
    precision: Precision | Literal["auto"] = "auto"
    """The precision of the forward pass; auto: bf16, fp16 or tf32, the first that the GPU supports; fp32 on a CPU."""
    low_precision_weights: Choice = "auto"
    """Keep a copy of linear layers' and convolutions' weights in bf16 or fp16, which saves casts; auto: on a GPU."""
    gradient_dtype: Literal["fp32", "bf16"] = "fp32"
    """The dtype in which gradients are summed over ranks."""
    activation_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    compile: Choice = "auto"
    """Compile the repeated layers; auto: on a GPU on which Triton can."""
    deterministic: bool = False
    """On a GPU: the same bits for the same run, by slower kernels. A CPU gives them in any case."""
    channels_last: Choice = "auto"
    """The memory format of convolutions; auto: on a GPU."""
    cudnn_search: Choice = "auto"
    """Let cuDNN time its convolutions and choose; auto: on a GPU, if not deterministic."""
    cudnn_attention: bool = False
    """Let cuDNN compute attention; it makes a plan for every new shape."""
    fsdp: Fsdp = Fsdp()
    """Options of `parallel` = fsdp."""
    prefetch: bool = True
    """Read the next batch in a thread while the model computes."""
    decoding: Literal["auto", "threads", "processes"] = "auto"
    """Decode image files in threads, or in processes, which do not hold Python's lock; auto: processes on a GPU."""
    max_skipped_steps: Count = 20
    """Steps in a row without a finite gradient after which the run fails."""
    hang_timeout_s: Annotated[float, Gt(0), Interval(le=1e8)] = 600.0
    """Seconds without progress after which every rank prints its stack, and the run ends."""
    noise_every: Annotated[int, Interval(ge=0, le=10**9)] = 100
    """Steps between measurements of the gradient noise; 0: none."""
    noise_detail: bool = False
    """Record the gradient noise of every layer, and preconditioned, too."""
    stop_after_steps: Annotated[int, Interval(ge=1)] | None = None
    """Save and stop after this step, counted over all phases; null: run to the end."""

    @property
    def evaluation_batch_size(self) -> int:
        """Examples in one forward pass of an evaluation, which needs less memory than training."""
        return 32 if self.micro_batch_size == "auto" else self.micro_batch_size
