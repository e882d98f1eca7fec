"""The Trainer, run for real: held to a loop by hand, resumed and watched."""

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from support.loops import BATCH, MICRO_BATCH, by_hand, equal, examples, network
from support.trainers import QUIET, TUNED, arguments
from transformers import Trainer, TrainingArguments, get_scheduler

from anybatch import LAMB, LARS, GradientNoiseScale, Layerwise, Reference, param_groups
from anybatch.elsewhere import read_log
from anybatch.integrations.trainer import global_batch_size, optimizer, prepare, scaled_arguments

X, LABELS = examples()
DATA = [{"x": x, "labels": label} for x, label in zip(X, LABELS, strict=True)]


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


def checkpointed(folder: Path, steps: int = 5, **given: Any) -> TrainingArguments:
    return arguments(folder, save_strategy="steps", save_steps=steps, logging_steps=steps, **given)


@pytest.mark.parametrize("prepared", ["both", "later"])
def test_a_checkpoint_of_another_batch_is_refused(prepared: str, tmp_path: Path) -> None:
    args = checkpointed(tmp_path)
    first = Trainer(network(), args, train_dataset=DATA, optimizer_cls_and_kwargs=optimizer(LAMB, args))
    if prepared == "both":
        prepare(first)
    first.train()
    larger = checkpointed(tmp_path, batch_size=64)
    again = Trainer(network(), larger, train_dataset=DATA, optimizer_cls_and_kwargs=optimizer(LAMB, larger))
    prepare(again)
    with pytest.raises(ValueError, match=r"the checkpoint's learning rate is 0\.02, this run's 0\.02828"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def test_a_checkpoint_of_another_batch_is_refused_if_the_rate_is_the_same(tmp_path: Path) -> None:
    """As in a script without a reference, started on fewer devices."""

    def plain(accumulated: int) -> Trainer:
        args = TrainingArguments(
            str(tmp_path), per_device_train_batch_size=8, gradient_accumulation_steps=accumulated, max_steps=8,
            **QUIET | {"save_strategy": "steps", "save_steps": 4},
        )  # fmt: skip
        trainer = Trainer(network(), args, train_dataset=DATA)
        prepare(trainer)
        return trainer

    plain(4).train()
    with pytest.raises(ValueError, match="was made at a global batch of 32, and this run has 16: a resumed run keeps"):
        plain(2).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))


@pytest.mark.parametrize(("there", "here"), [("AdamW", "LAMB"), ("LAMB", "AdamW"), ("LARS", "LAMB")])
def test_a_checkpoint_of_another_optimizer_is_refused(there: str, here: str, tmp_path: Path) -> None:
    args = checkpointed(tmp_path)

    def made(name: str) -> Trainer:
        own = (
            {} if name == "AdamW" else {"optimizer_cls_and_kwargs": optimizer({"LAMB": LAMB, "LARS": LARS}[name], args)}
        )
        trainer = Trainer(network(), args, train_dataset=DATA, **own)
        prepare(trainer)
        return trainer

    made(there).train()
    with pytest.raises(ValueError, match="the checkpoint is another optimizer's"):
        made(here).train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))


def test_a_resumed_run_goes_on_with_its_noise_window(tmp_path: Path) -> None:
    args = checkpointed(tmp_path)

    def made() -> Trainer:
        trainer = Trainer(network(), args, train_dataset=DATA, optimizer_cls_and_kwargs=optimizer(LAMB, args))
        prepare(trainer, noise_every=1)
        return trainer

    whole, again = made(), made()
    whole.train()
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    last, other = ([entry for entry in each.state.log_history if "loss" in entry][-1] for each in (whole, again))
    assert last["noise/scale"] == other["noise/scale"]


@pytest.mark.parametrize("logging_steps", [2, 500])
def test_the_log_has_the_settings_once_also_of_a_script_without_a_reference(logging_steps: int, tmp_path: Path) -> None:
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=8, learning_rate=0.003, warmup_steps=3, max_steps=8,
        logging_steps=logging_steps, **QUIET,
    )  # fmt: skip
    trainer = Trainer(network(), args, train_dataset=DATA)
    prepare(trainer)
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "settings/lr" in entry]
    assert entry["settings/lr"] == 0.003
    assert (entry["settings/warmup_steps"], entry["settings/num_steps"]) == (3, 8)
    assert entry["settings/optimizer/AdamW"] == 1
    trainer.save_state()
    log = read_log(tmp_path)
    assert (log.batch, log.peak, log.word("optimizer")) == (8, (0.003, 3), "AdamW")


def test_split_batches_are_counted_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes share the loader's 8 examples: the batch is 8, not 16."""
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    config = {"split_batches": True}
    args = TrainingArguments(str(tmp_path), per_device_train_batch_size=8, accelerator_config=config, **QUIET)
    assert global_batch_size(args) == 8
    assert scaled_arguments(args, TUNED, batch_size=32).gradient_accumulation_steps == 4


def test_a_batch_that_was_found_automatically_is_the_one_that_is_logged(tmp_path: Path) -> None:
    class Small(type(network())):  # type: ignore[misc]
        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            if len(x) > 8:
                raise RuntimeError("CUDA out of memory.")
            return super().forward(x, labels)

    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=16, auto_find_batch_size=True, max_steps=4, logging_steps=4, **QUIET
    )
    torch.manual_seed(0)
    trainer = Trainer(Small(), args, train_dataset=DATA)
    prepare(trainer)
    trainer.train()
    (entry,) = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert entry["global_batch_size"] == trainer._train_batch_size < 16


def test_prepare_is_called_once_before_training_with_a_sensible_interval(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    trainer = Trainer(network(), args, train_dataset=DATA)
    for wrong in (0, -3):
        with pytest.raises(ValueError, match=f"noise_every={wrong} is not an int of at least 1"):
            prepare(trainer, noise_every=wrong)
    trainer.train()
    with pytest.raises(ValueError, match=r"call prepare once, before trainer\.train"):
        prepare(trainer)
    other = Trainer(network(), args, train_dataset=DATA)
    prepare(other)
    with pytest.raises(ValueError, match="call prepare once"):
        prepare(other)


def test_what_is_no_class_and_no_arguments_is_said_at_once(tmp_path: Path) -> None:
    args = arguments(tmp_path)
    with pytest.raises(ValueError, match="kind='lamb' is not an optimizer's class"):
        optimizer("lamb", args)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"arguments=\{\} are not TrainingArguments"):
        optimizer(LAMB, {})
    with pytest.raises(ValueError, match=r"arguments=\{\} are not TrainingArguments, nor their class"):
        scaled_arguments({}, TUNED)
    with pytest.raises(ValueError, match=r"reference=0\.1 is not an anybatch\.Reference"):
        scaled_arguments(args, 0.1)  # type: ignore[arg-type]


def test_a_schedule_that_waits_for_the_held_out_loss_is_left_alone(tmp_path: Path) -> None:
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=8, lr_scheduler_type="reduce_lr_on_plateau", max_steps=2,
        eval_strategy="steps", eval_steps=1, logging_steps=1, **QUIET,
    )  # fmt: skip
    trainer = Trainer(network(), args, train_dataset=DATA, eval_dataset=DATA[:8])
    prepare(trainer)
    trainer.train()
    assert trainer.state.log_history[0]["settings/lr"] == args.learning_rate
