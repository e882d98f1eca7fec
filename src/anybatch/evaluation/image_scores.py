"""Scores an image model, and writes RUN/classification.json with its mistakes."""

import base64
import heapq
import io
import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import cross_entropy

from anybatch.data.images.source import ImageSource, late_batches
from anybatch.files import write_json
from anybatch.models.classifier import ImageClassifier
from anybatch.numbers import finite
from anybatch.runs import Run

NUM_WORST = 24
_LARGEST_PICTURE = 96


@torch.no_grad()
def judge(
    model: ImageClassifier,
    source: ImageSource,
    name: Callable[[int], str],
    classes: tuple[str, ...],
    run: Run | None,
    batch_size: int,
) -> dict[str, float]:
    """Returns mean loss, top-1 and top-5 over all examples of `source` that can be read.

    With a `run`, writes its classification.json: {"classes": names, "confusion": [[true, predicted, count], ...],
    "worst": the 24 examples of the greatest loss, each {"name", "label", "predicted", "loss", "probability", "png"}},
    the probability being the label's and the picture in base64.
    """
    model.eval()
    device = next(model.parameters()).device
    confusion = Counter[tuple[int, int]]()
    worst: list[tuple[float, int, int, int]] = []
    loss_sum, right, near, count, start = 0.0, 0, 0, 0, 0
    for batch in late_batches(source, batch_size):
        inputs = batch.inputs
        labels = inputs["labels"].to(device)
        known = labels >= 0
        logits = model.logits(inputs["images"].to(device)).float()[known]
        targets = labels[known]
        if len(targets):
            losses = cross_entropy(logits, targets, reduction="none")
            likeliest = logits.topk(min(5, logits.shape[-1])).indices
            hit = likeliest == targets[:, None]
            loss_sum += losses.double().sum().item()
            right += int(hit[:, 0].sum())
            near += int(hit.sum())
            count += len(targets)
            places = (start + torch.nonzero(known).flatten().cpu()).tolist()
            found = [*zip(targets.tolist(), likeliest[:, 0].tolist(), strict=True)]
            confusion.update(found)
            rows = ((loss, place, *pair) for loss, place, pair in zip(losses.tolist(), places, found, strict=True))
            worst = heapq.nlargest(NUM_WORST, [*worst, *rows])
        start += batch.num_examples
    if run is not None:
        shown = [
            {
                "name": name(example),
                "label": label,
                "predicted": predicted,
                "loss": finite(loss),
                "probability": math.exp(-loss) if math.isfinite(loss) else None,
                "png": _picture(source, example),
            }
            for loss, example, label, predicted in worst
        ]
        table = [[true, found, number] for (true, found), number in sorted(confusion.items())]
        write_json(run.path / "classification.json", {"classes": list(classes), "confusion": table, "worst": shown})
    return {
        "loss": loss_sum / count if count else float("nan"),
        "top1": right / count if count else 0.0,
        "top5": near / count if count else 0.0,
    }


def _picture(source: ImageSource, example: int) -> str:
    """Returns the example as the model saw it, as a PNG of at most 96 pixels a side, in base64."""
    pixels, _ = source.views(np.zeros(1, dtype=np.int64), np.array([example]))
    image = Image.fromarray(pixels[0, :, :, 0] if pixels.shape[-1] == 1 else pixels[0])
    image.thumbnail((_LARGEST_PICTURE, _LARGEST_PICTURE))
    written = io.BytesIO()
    image.save(written, "PNG")
    return base64.b64encode(written.getvalue()).decode()
