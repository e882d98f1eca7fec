"""The Trainer, run for real: held to a loop by hand, resumed, watched, and asked for what does not fit together."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from integrations.loops import BATCH, MICRO_BATCH, by_hand, equal, examples, network
from transformers import Trainer, TrainingArguments, get_scheduler

from anybatch import LAMB, LARS, GradientNoiseScale, Layerwise, Reference, param_groups
from anybatch.integrations.trainer import global_batch_size, optimizer, prepare, scaled_arguments

TUNED = Reference(8, lr=0.01, warmup_ratio=1 / 64, num_examples=512)
X, LABELS = examples()
DATA = [{"x": x, "labels": label} for x, label in zip(X, LABELS, strict=True)]
QUIET = {
    "use_cpu": True,
    "report_to": "none",
    "save_strategy": "no",
    "disable_tqdm": True,
    "train_sampling_strategy": "sequential",
    "dataloader_pin_memory": False,
}


def arguments(folder: Path, reference: Reference = TUNED, **given: Any) -> TrainingArguments:
    settings = {"per_device_train_batch_size": MICRO_BATCH, "batch_size": BATCH, **QUIET, **given}
    return scaled_arguments(TrainingArguments, reference, output_dir=str(folder), **settings)


def trained(args: TrainingArguments, kind: Any, **given: Any) -> Trainer:
    model = network()
    trainer = Trainer(model, args, train_dataset=DATA, optimizer_cls_and_kwargs=optimizer(kind, args, **given))
    trainer.train()
    return trainer


@pytest.mark.parametrize("kind", ["lamb", "lars", "layerwise"])
def test_it_ends_where_a_loop_by_hand_ends(kind: str, tmp_path: Path) -> None:
    args = arguments(tmp_path, weight_decay=0.02, adam_beta2=0.99, max_grad_norm=0.5)
    run = TUNED.at(BATCH)
    assert (args.learning_rate, args.max_steps, args.warmup_steps) == (run.lr, run.num_steps, run.warmup_steps)
    assert args.gradient_accumulation_steps == BATCH // MICRO_BATCH
    made = {
        "lamb": (LAMB, {}),
        "lars": (LARS, {"momentum": 0.8}),
        "layerwise": (torch.optim.AdamW, {"layerwise": True}),
    }
    trainer = trained(args, made[kind][0], **made[kind][1])
    model = network()
    groups = param_groups(model, 0.02)
    by = {
        "lamb": lambda: LAMB(groups, lr=run.lr, betas=(0.9, 0.99)),
        "lars": lambda: LARS(groups, lr=run.lr, momentum=0.8),
        "layerwise": lambda: Layerwise(torch.optim.AdamW(groups, lr=run.lr, betas=(0.9, 0.99))),
    }[kind]()
    schedule = get_scheduler("linear", by, num_warmup_steps=run.warmup_steps, num_training_steps=run.num_steps)
    assert equal(trainer.model, by_hand(model, by, schedule, run.num_steps, clip=0.5))


def test_after_warm_up_the_schedule_is_the_references(tmp_path: Path) -> None:
    run = TUNED.at(BATCH)
    args = arguments(tmp_path, logging_steps=1)
    trainer = trained(args, LAMB)
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert rates[run.warmup_steps :] == pytest.approx(
        [run.lr * run.schedule(t) for t in range(run.warmup_steps, run.num_steps)]
    )


@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_the_log_has_trust_ratios_and_the_noise_scale_of_a_loop_by_hand(clip: float, tmp_path: Path) -> None:
    """Clipped or not: the noise is measured before."""
    args = arguments(tmp_path, logging_steps=4, max_grad_norm=clip)
    model = network()
    trainer = Trainer(model, args, train_dataset=DATA, optimizer_cls_and_kwargs=optimizer(LAMB, args))
    prepare(trainer, noise_every=2)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert all(entry["global_batch_size"] == BATCH for entry in entries)

    run, other = TUNED.at(BATCH), network()
    by = LAMB(param_groups(other, 0.0), lr=run.lr)
    noise = GradientNoiseScale(other, every=2)
    schedule = get_scheduler("linear", by, num_warmup_steps=run.warmup_steps, num_training_steps=run.num_steps)
    by_hand(other, by, schedule, run.num_steps, lambda: noise.micro_batch(MICRO_BATCH), noise.step, clip=clip or None)
    assert equal(trainer.model, [p.detach() for p in other.parameters()])
    expected = noise.estimate()
    assert entries[-1]["noise/scale"] == pytest.approx(expected.value, rel=1e-6)
    squares, traces = noise.history()
    assert [entry["noise/gradient_square"] for entry in entries] == pytest.approx(
        [(a + b) / 2 for a, b in zip(squares[::2], squares[1::2], strict=True)]
    )
    assert [entry["noise/trace"] for entry in entries] == pytest.approx(
        [(a + b) / 2 for a, b in zip(traces[::2], traces[1::2], strict=True)]
    )
    last = sorted(each.ratio for each in by.trust_ratios().values() if each.ratio != 1)
    assert entries[-1]["trust_ratio/max"] == pytest.approx(last[-1])
    assert entries[-1]["trust_ratio/min"] == pytest.approx(last[0])


def test_a_checkpoint_is_resumed_bit_for_bit_with_weights_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Trainer reads optimizer.pt and scheduler.pt with weights_only=True; here every load must."""
    args = arguments(tmp_path, save_strategy="steps", save_steps=5, logging_steps=5)
    whole = trained(args, LAMB)
    read = torch.load
    loads = []

    def load(*given: Any, **options: Any) -> Any:
        loads.append((str(given[0]), options.get("weights_only")))
        return read(*given, **options)

    monkeypatch.setattr(torch, "load", load)
    model = network()
    again = Trainer(model, args, train_dataset=DATA, optimizer_cls_and_kwargs=optimizer(LAMB, args))
    prepare(again)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert equal(again.model, [p.detach() for p in whole.model.parameters()])
    optimizers = [only for name, only in loads if name.endswith(("optimizer.pt", "scheduler.pt"))]
    assert optimizers == [True, True]


def test_arguments_that_exist_are_filled_in(tmp_path: Path) -> None:
    """As HfArgumentParser leaves them."""
    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=8, gradient_accumulation_steps=2, **QUIET)
    assert scaled_arguments(args, TUNED) is args
    assert global_batch_size(args) == 16
    assert args.learning_rate == TUNED.at(16).lr
    assert args.max_steps == TUNED.at(16).num_steps


def test_moments_and_decay_scale_with_the_batch(tmp_path: Path) -> None:
    tuned = Reference(
        8, lr=0.001, warmup_ratio=0.0, num_examples=512, betas=(0.9, 0.99), eps=1e-7, weight_decay=0.1, rule="sde"
    )
    run = tuned.at(BATCH)
    args = arguments(tmp_path, tuned)
    assert (args.adam_beta1, args.adam_beta2) == run.betas != tuned.betas
    assert args.adam_epsilon == run.eps != tuned.eps
    assert args.weight_decay == run.weight_decay
    factory, _ = optimizer(LAMB, args)
    group = factory()(network()).param_groups[0]
    assert (group["betas"], group["eps"], group["weight_decay"]) == (run.betas, run.eps, run.weight_decay)


@pytest.mark.parametrize(("decay", "power", "name"), [("cosine", 1.0, "cosine"), ("polynomial", 2.0, "polynomial")])
def test_other_decays_have_the_trainers_names(decay: Any, power: float, name: str, tmp_path: Path) -> None:
    tuned = Reference(8, lr=0.01, warmup_ratio=1 / 64, num_examples=512, decay=decay, power=power)
    args, run = arguments(tmp_path, tuned), tuned.at(BATCH)
    assert args.lr_scheduler_type == name
    layer = torch.nn.Parameter(torch.ones(1))
    schedule = get_scheduler(
        args.lr_scheduler_type,
        torch.optim.SGD([layer], lr=run.lr),
        num_warmup_steps=args.warmup_steps,
        num_training_steps=run.num_steps,
        scheduler_specific_kwargs=args.lr_scheduler_kwargs,
    )
    multiplier = schedule.lr_lambdas[0]
    for t in range(run.warmup_steps, run.num_steps):
        assert multiplier(t) == pytest.approx(run.schedule(t), abs=1e-9)


def test_a_head_that_ignores_the_count_of_items_accumulates_a_mean(tmp_path: Path) -> None:
    """Of 8 examples at once and of 4 x 2 the first gradient is the same, and so is the logged loss."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    rows = torch.randint(16, (8, 4), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": int(row[0] > 7)} for row in rows]
    seen = []
    for size in (8, 2):
        torch.manual_seed(0)
        model = BertForSequenceClassification(config)
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        reference = Reference(8, lr=0.01, warmup_ratio=0.0, num_examples=8)
        args = arguments(
            tmp_path, reference, batch_size=8, per_device_train_batch_size=size, logging_steps=1, max_grad_norm=0.0
        )
        trainer = Trainer(model, args, train_dataset=data, optimizer_cls_and_kwargs=optimizer(LAMB, args))
        prepare(trainer)
        trainer.train()
        seen.append(trainer.state.log_history[0])
    assert seen[1]["grad_norm"] == pytest.approx(seen[0]["grad_norm"], rel=1e-5)
    assert seen[1]["loss"] == pytest.approx(seen[0]["loss"], rel=1e-5)


REFUSED = {
    "max_steps=500 contradicts the reference, which gives 16": {"max_steps": 500},
    "learning_rate=0.1 contradicts": {"learning_rate": 0.1},
    "num_train_epochs=3 has no say: the reference's 512 examples are 16 steps": {"num_train_epochs": 3.0},
    "gradient_accumulation_steps=3 contradicts batch_size=32": {"gradient_accumulation_steps": 3},
    "batch_size=33 is not a multiple of 8": {"batch_size": 33},
    "gradient_accumulation_steps is nothing in the DeepSpeed configuration": {
        "deepspeed": {"train_batch_size": 32, "train_micro_batch_size_per_gpu": "auto"}
    },
    "gradient_accumulation_steps is 7 in the DeepSpeed configuration": {
        "deepspeed": {"gradient_accumulation_steps": 7, "train_micro_batch_size_per_gpu": "auto"}
    },
    "FSDP1 flattens the parameters": {"fsdp": True, "fsdp_config": {"version": 1}},
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_does_not_fit_together_is_refused_in_one_line(line: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="^" + line.replace("(", r"\(")) as raised:
        arguments(tmp_path, **REFUSED[line])
    assert "\n" not in str(raised.value)


def test_processes_that_the_arguments_do_not_see_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an accelerator and use_cpu, TrainingArguments of each of two processes count one."""
    args = TrainingArguments(str(tmp_path), **QUIET)
    assert args.world_size == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ValueError, match="2 processes were launched, but TrainingArguments takes each for the only one"
    ):
        scaled_arguments(args, TUNED)


def test_a_deepspeed_configuration_in_a_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    file.write_text(json.dumps({"gradient_accumulation_steps": 7, "train_micro_batch_size_per_gpu": 8}))
    with pytest.raises(ValueError, match="gradient_accumulation_steps is 7 in the DeepSpeed"):
        arguments(tmp_path, deepspeed=str(file))


def test_a_schedule_that_the_trainer_lacks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='join="global" is a schedule that the Trainer does not have'):
        arguments(tmp_path, Reference(8, lr=0.01, warmup_ratio=1 / 64, num_examples=512, join="global"))


def test_each_model_of_a_search_has_an_optimizer_of_its_own(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    trainer = Trainer(model_init=network, args=args, train_dataset=DATA, optimizer_cls_and_kwargs=optimizer(LAMB, args))
    trainer.model = other = network()
    args.learning_rate = 0.5
    made = trainer.create_optimizer()
    assert {p for group in made.param_groups for p in group["params"]} == set(other.parameters())
    assert made.param_groups[0]["lr"] == 0.5


def test_one_micro_batch_a_step_is_said_and_the_rest_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    args = arguments(tmp_path, per_device_train_batch_size=BATCH, logging_steps=8)
    model = network()
    trainer = Trainer(model, args, train_dataset=DATA, optimizer_cls_and_kwargs=optimizer(LAMB, args))
    prepare(trainer)
    with caplog.at_level("WARNING"):
        trainer.train()
    assert "halve the per-device batch and accumulate 2" in caplog.text
    last = [entry for entry in trainer.state.log_history if "loss" in entry][-1]
    assert "trust_ratio/p50" in last
    assert "noise/trace" not in last
