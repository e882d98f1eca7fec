"""Hugging Face folders to models: transformers reads, and every tensor is checked.

transformers draws missing tensors at random, skips unknown ones and keeps the file's dtype, each with only a log line.
Here a tensor of the encoder that is missing, unknown, of another shape or not finite is an error. Only heads may be
new or left over, and all weights become fp32.
"""

import hashlib
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from anybatch.errors import InputError, readable
from anybatch.files import read_object, sha256

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"

# The parts that transformers' classes for one kind of encoder add to it; a folder of one class serves another.
HEADS = ("cls.", "lm_head.", "qa_outputs.", "classifier.", "seq_relationship.", "pooler.")
# Buffers that older releases wrote.
_BUFFERS = ("position_ids", "token_type_ids")
# Settings that describe a shape, under transformers' common names.
_COUNTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "type_vocab_size",
)
_DTYPES = ("F16", "BF16", "F32", "F64")

# The shape of every tensor, by its name.
Shapes = dict[str, tuple[int, ...]]


def read_config(folder: Path, types: tuple[str, ...]) -> Any:
    """Reads the configuration of the model in `folder`, as transformers does.

    Raises:
        InputError: there is none; or the model is of none of the `types`, quantized, a set of adapters, or a decoder.
    """
    written = read_object(folder / "config.json")
    if (found := written.get("model_type")) not in types:
        raise InputError(f"{folder}: holds a model of type {found!r}; must be {' or '.join(map(repr, types))}")
    # The weights of some architectures fit into others. A type written by hand would then load a wrong model.
    kinds = (str(found).replace("-", ""), "prenorm")  # PreNormForPreTraining is ours
    names = written.get("architectures")
    foreign = [name for name in names if not str(name).lower().startswith(kinds)] if isinstance(names, list) else []
    if foreign:
        raise InputError(f"{folder}: was saved from {foreign[0]} (architectures in config.json), which is no {found}")
    if written.get("quantization_config") is not None:
        raise InputError(f"{folder}: its weights are quantised; name a folder of weights in fp32, fp16 or bf16")
    if (folder / "adapter_config.json").exists():
        raise InputError(f"{folder}: holds adapters (adapter_config.json); merge them into the weights first")
    if written.get("is_decoder") or written.get("is_encoder_decoder"):
        raise InputError(f"{folder}: holds a decoder (config.json); only encoders that see both sides can be used")
    # transformers reads such a folder as one of absolute positions, since its release 5 without a word.
    if (positions := written.get("position_embedding_type", "absolute")) != "absolute":
        raise InputError(f"{folder}: position_embedding_type = {positions!r} (config.json): must be 'absolute'")
    with readable(folder, f"{found} model"):
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    for name in _COUNTS:
        if type(value := getattr(config, name, 1)) is not int or value < 1:
            raise InputError(f"{folder / 'config.json'}: {name} = {value!r}: must be a whole number of at least 1")
    if not isinstance(config.architectures or [], list):
        raise InputError(f"{folder / 'config.json'}: architectures = {config.architectures!r}: must be a list of names")
    return config


def read_model(kind: Any, folder: Path, config: Any, new_heads: Iterable[str] = ()) -> Any:
    """Reads the model of transformers' class `kind` in `folder`, in fp32.

    Args:
        new_heads: prefixes of tensor names; a head that is missing in the folder as a whole keeps its new weights.

    Raises:
        InputError: a file is missing or damaged, or a tensor is missing, surplus, of another shape or not finite.
    """
    _, shapes = read_weights(folder)
    base = f"{kind.base_model_prefix}."
    new = tuple(head for head in new_heads if not _has(shapes, base, head))
    if (layers := config.num_hidden_layers) > len(shapes):
        raise InputError(f"{folder}: config.json names {layers} layers, the files hold {len(shapes)} tensors")
    with readable(folder, f"{config.model_type} model"), torch.device("meta"):
        described = kind(config)
    _check_shapes(folder, described, base, shapes, new)
    with readable(folder, f"{config.model_type} model"):
        model, info = kind.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    if missing := [
        name for name in described.state_dict() if name in info["missing_keys"] and not name.startswith(new)
    ]:
        raise InputError(
            f"{folder}: has no tensor {missing[0]!r}{_more(missing)}{_prefix(shapes)}; save the model again"
        )
    known = (*HEADS, *(base + head for head in HEADS))
    surplus = sorted(
        name for name in info["unexpected_keys"] if not name.startswith(known) and not name.endswith(_BUFFERS)
    )
    if surplus:
        raise InputError(
            f"{folder}: tensor {surplus[0]!r}{_more(surplus)} has no place in the {config.model_type} that config.json "
            "describes; mend config.json, or save the model again"
        )
    for name, value in model.state_dict().items():
        if not value.isfinite().all():
            raise InputError(f"{folder}: tensor {name!r} holds NaN or infinite values; take a sound copy of the model")
    return model


def read_weights(folder: Path) -> tuple[list[Path], Shapes]:
    """Reads the headers of the safetensors files in `folder`: one file, or the shards of an index; opens no pickle.

    Returns the files, and the shapes of all tensors.

    Raises:
        InputError: there are none; both a single file and shards; or an index that does not match the files.
    """
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file() and index.is_file():
        raise InputError(f"{folder}: holds both {WEIGHTS} and {INDEX}; remove the one that is not meant")
    if single.is_file():
        return [single], _shapes(single)
    if not index.is_file():
        pickled = "; its .bin file is a pickle, which is not opened: save the model as safetensors"
        raise InputError(f"{folder}: has no {WEIGHTS}{pickled if list(folder.glob('*.bin')) else ''}")
    listed = read_object(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise InputError(f"{index}: has no 'weight_map'; save the model again")
    for name in listed.values():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise InputError(f"{index}: points to {name!r}; must be a .safetensors file in the same folder")
    found: Shapes = {}
    files = [folder / name for name in sorted(set(listed.values()))]
    for file in files:
        shapes = _shapes(file)
        wanted = {name for name, where in listed.items() if where == file.name}
        if wrong := sorted(name for name in shapes if name not in wanted) + sorted(wanted - shapes.keys()):
            raise InputError(f"{file}: tensor {wrong[0]!r} is not where {INDEX} says; save the model again")
        found |= shapes
    return files, found


def fingerprint(folder: Path) -> str:
    """Returns the SHA-256 of the weights in a model folder, over all shards."""
    sums = [sha256(file) for file in read_weights(folder)[0]]
    return sums[0] if len(sums) == 1 else hashlib.sha256("\n".join(sums).encode()).hexdigest()


def save_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json into a model `folder`; `max_length` in tokens."""
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=max_length,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(folder)


def _shapes(file: Path) -> Shapes:
    from safetensors import safe_open

    if not file.is_file():
        raise InputError(f"{file}: no such file, but {INDEX} lists it; copy or save the model again")
    with readable(file, "safetensors file"), safe_open(file, framework="pt") as opened:
        parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
        dtypes = {name: part.get_dtype() for name, part in parts.items()}
        shapes = {name: tuple(part.get_shape()) for name, part in parts.items()}
    for name, dtype in dtypes.items():
        if dtype not in _DTYPES and not name.endswith(_BUFFERS):
            raise InputError(f"{file}: tensor {name!r} is of type {dtype}; must be one of {', '.join(_DTYPES)}")
    return shapes


def _check_shapes(folder: Path, described: Any, base: str, shapes: Shapes, new: tuple[str, ...]) -> None:
    """Raises InputError if a tensor's shape is not that of config.json, before memory is allocated."""
    for name, value in described.state_dict().items():
        shape = shapes.get(name, shapes.get(name.removeprefix(base)))
        if shape is not None and shape != tuple(value.shape):
            raise InputError(
                f"{folder}: tensor {name!r} has shape {list(shape)}, config.json makes it {list(value.shape)}; "
                "they do not belong together"
            )
    needed = sum(value.numel() for name, value in described.named_parameters() if not name.startswith(new))
    if needed > (held := sum(map(prod, shapes.values()))):
        missing = [name for name in described.state_dict() if not _has(shapes, base, name) and not name.startswith(new)]
        raise InputError(
            f"{folder}: config.json describes {needed:,} parameters, the files hold {held:,}: there is no "
            f"{', no '.join(map(repr, missing[:1]))}{_prefix(shapes)}; save the model again"
        )


def _has(shapes: Shapes, base: str, beginning: str) -> bool:
    return any(name.startswith(beginning) or (base + name).startswith(beginning) for name in shapes)


def _more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _prefix(shapes: Shapes) -> str:
    """Returns a hint if a wrapper such as DataParallel or torch.compile put a prefix before all names, else ''."""
    for prefix in ("module.", "_orig_mod.", "model."):
        if all(name.startswith(prefix) for name in shapes):
            return f" (all names begin with {prefix!r}: a wrapper around the model was saved)"
    return ""
