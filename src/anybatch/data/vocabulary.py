"""The WordPiece vocabulary: trained the same way twice, kept in one tokenizer.json."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from anybatch.data.sentences import in_batches, in_pieces
from anybatch.errors import InputError, readable
from anybatch.files import read_text, write_text

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SMALLEST_SIZE = 256
# Far above any WordPiece vocabulary in use; the trainer reserves memory for this size, and crashes if it fails.
LARGEST_SIZE = 1_000_000

_CONTINUED = "##"
# Files that transformers reads beside a vocabulary.
_FILES = ("tokenizer.json", "vocab.txt")
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_MAX_ALPHABET = 1000
_CODE_POINTS = 0x110000
_COUNTED_AT_ONCE = 1 << 20
_COVERED = 0.9995
# The trainer's time grows with the square of a word's length, and WordPiece reads a word this long as [UNK] anyway.
_LONGEST_WORD = 1000


def train(texts: Callable[[], Iterable[str]], size: int) -> Tokenizer:
    """Trains a lower-cased WordPiece tokenizer of at most `size` tokens, the special ones first: [PAD] is 0.

    `texts` is called twice and gives the same texts each time. The result depends only on the texts and on `size`.
    The alphabet is the most frequent characters, at most a quarter of the vocabulary. If 1,000 characters cover 99.95 %
    of the text, the alphabet has at most 1,000; in Chinese or Japanese they do not. A word with any other character is
    [UNK].

    Raises:
        InputError: `size` is not in [256, 1,000,000], or the texts have no word.
    """
    if size < SMALLEST_SIZE:
        raise InputError(f"vocabulary size {size}: must be at least {SMALLEST_SIZE}")
    if size > LARGEST_SIZE:
        raise InputError(f"vocabulary size {size}: must be at most {LARGEST_SIZE}")
    alphabet = most_frequent(texts(), normalizers.BertNormalizer(lowercase=True), most=size // 4, fewest=_MAX_ALPHABET)
    if not alphabet:
        raise InputError("the texts hold no word to make a vocabulary of")
    continued = [_CONTINUED + letter for letter in alphabet if _goes_on_words(letter)]
    # The trainer numbers characters in the order of a hash table, and breaks ties between merges by these numbers, so
    # two runs differ. Tokens that are named as special beforehand keep their order.
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[*SPECIAL_TOKENS, *alphabet, *continued],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    trained = _tokenizer(models.WordPiece(unk_token="[UNK]"))
    # The trainer holds hundreds of texts at a time, of any length.
    trained.train_from_iterator(map(_without_long_words, in_pieces(texts())), trainer)
    return from_words(trained.get_vocab())


def most_frequent(texts: Iterable[str], normalizer: normalizers.Normalizer, *, most: int, fewest: int) -> list[str]:
    """Returns the fewest characters that cover 99.95 % of the normalized texts, in the order of their code points.

    Args:
        most, fewest: the largest number of characters, and the smallest if the texts have as many. White space does
            not count.
    """
    counts = np.zeros(_CODE_POINTS, dtype=np.int64)
    # The cost of counting a whole alphabet is paid once a megabyte.
    for part in in_batches(in_pieces(texts), len, _COUNTED_AT_ONCE):
        points = np.frombuffer(normalizer.normalize_str("\n".join(part)).encode("utf-32-le"), dtype=np.uint32)
        counts += np.bincount(points, minlength=_CODE_POINTS)
    seen = [point for point in np.flatnonzero(counts).tolist() if not chr(point).isspace()]
    ordered = sorted(seen, key=lambda point: (-counts[point], point))
    covered = np.cumsum(counts[ordered])
    needed = int(np.searchsorted(covered, _COVERED * covered[-1])) + 1 if seen else 0
    return [chr(point) for point in sorted(ordered[: min(most, max(fewest, needed))])]


def from_words(vocabulary: dict[str, int], *, lowercase: bool = True) -> Tokenizer:
    """Makes the tokenizer with exactly this vocabulary, token to number; only the five special tokens are special."""
    model = models.WordPiece(vocabulary, unk_token="[UNK]", continuing_subword_prefix=_CONTINUED)
    tokenizer = _tokenizer(model, lowercase=lowercase)
    tokenizer.decoder = decoders.WordPiece(prefix=_CONTINUED)
    return with_special_tokens(tokenizer)


def with_special_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """Adds the five special tokens, which the vocabulary holds, and BERT's template for one and two texts."""
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    tokenizer.encode_special_tokens = True  # The letters '[SEP]' in a text mean these letters.
    return tokenizer


def _from_lines(content: str, path: Path) -> Tokenizer:
    # White space at a word's end is no part of it, as for the libraries.
    words = [line.rstrip() for line in content.removesuffix("\n").split("\n")]
    numbers = {word: number for number, word in enumerate(words)}
    if len(numbers) < len(words):
        number = next(number for number, word in enumerate(words) if numbers[word] != number)
        raise InputError(f"{path}:{number + 1}: {words[number]!r} occurs twice in the vocabulary")
    _special_among(numbers, str(path))
    lowercase = all(word == word.lower() for word in words if word[:1] + word[-1:] not in ("[]", "<>"))
    return from_words(numbers, lowercase=lowercase)


def save(tokenizer: Tokenizer, path: Path) -> None:
    """Writes tokenizer.json, in the format of the `tokenizers` library."""
    write_text(path, tokenizer.to_str(pretty=True) + "\n")


def load(path: Path) -> Tokenizer:
    """Loads the tokenizer in a tokenizer.json, or BERT's for the words of a vocab.txt, one a line.

    If a file with transformers' settings is beside it (tokenizer_config.json, special_tokens_map.json or
    added_tokens.json), transformers reads the folder: lower-casing, accents and added tokens are as in transformers. A
    lone vocab.txt does not say whether text is lower-cased: it is, unless one of the words has a capital; marks such
    as [CLS] and <S> are no words.

    Raises:
        InputError: a missing or broken file, a file in which one of BERT's special tokens is missing or has another
            name, numbers with gaps, or settings under which transformers changes the numbers of tokens or drops rules.
    """
    content = read_text(path)
    with readable(path, "tokenizer.json"):
        tokenizer = _from_lines(content, path) if path.suffix == ".txt" else Tokenizer.from_str(content)
    if path.name in _FILES and any((path.parent / name).is_file() for name in _SETTINGS):
        tokenizer = _with_settings(tokenizer, path)
    special_ids(tokenizer, str(path))
    vocabulary = tokenizer.get_vocab()
    twice, uses = Counter(vocabulary.values()).most_common(1)[0]
    if uses > 1:
        tokens = sorted(token for token, number in vocabulary.items() if number == twice)
        raise InputError(f"{path}: {', '.join(map(repr, tokens))} have the same number, {twice}; each needs its own")
    if (largest := max(vocabulary.values())) >= (size := tokenizer.get_vocab_size()):
        raise InputError(f"{path}: numbers {size} tokens up to {largest}; they must be numbered without gaps")
    if getattr(tokenizer.model, "dropout", None):
        raise InputError(
            f"{path}: cuts text at random (dropout = {tokenizer.model.dropout}); set dropout to null in it"
        )
    tokenizer.no_padding()
    tokenizer.no_truncation()
    tokenizer.encode_special_tokens = True
    return tokenizer


def _with_settings(written: Tokenizer, path: Path) -> Tokenizer:
    """Returns the tokenizer that transformers makes of a folder; `written` is the content of the file at `path`."""
    from transformers import AutoTokenizer, BertConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    folder = path.parent
    # Without a config.json, which names the kind of model, transformers does not know the kind.
    config = {} if (folder / "config.json").is_file() else {"config": BertConfig()}
    with readable(folder, "tokenizer"):
        read = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **config)
        tokenizer: Tokenizer = read.backend_tokenizer
        names = {name: str(getattr(read, f"{name[1:-1].lower()}_token")) for name in SPECIAL_TOKENS}
    if renamed := [name for name in SPECIAL_TOKENS if names[name] != name]:
        raise InputError(
            f"{folder}: its settings call {renamed[0]} {names[renamed[0]]!r}; special tokens must have BERT's names: "
            f"{', '.join(SPECIAL_TOKENS)}"
        )
    for token, number in written.get_vocab().items():
        if (found := tokenizer.token_to_id(token)) != number:
            raise InputError(
                f"{path}: token {token!r} is number {number} there, and {found} under the settings beside it; they do "
                "not belong together"
            )
    rules, kept = _rules(written), _rules(tokenizer)
    if path.suffix == ".json" and (lost := [name for name in rules if rules[name] != kept[name]]):
        raise InputError(
            f"{path}: transformers drops its {lost[0]} because of the settings beside it; remove them, or set "
            "tokenizer_class to PreTrainedTokenizerFast in tokenizer_config.json"
        )
    return tokenizer


def _rules(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the rules that cut text, without what settings may change: case, accents, Chinese characters."""
    parts = json.loads(tokenizer.to_str())
    normalizer, model = parts["normalizer"], parts["model"]
    if normalizer and normalizer["type"] == "BertNormalizer":
        normalizer = {"type": "BertNormalizer"}
    model = {name: value for name, value in model.items() if name not in ("vocab", "merges")}
    return {"normalizer": normalizer, "pre_tokenizer": parts["pre_tokenizer"], "model": model}


def in_folder(folder: Path) -> Path:
    """Returns the vocabulary file of a model folder: its tokenizer.json, or its vocab.txt if it has no other."""
    words = folder / "vocab.txt"
    return words if words.is_file() and not (folder / "tokenizer.json").is_file() else folder / "tokenizer.json"


def special_ids(tokenizer: Tokenizer, where: str = "the vocabulary") -> dict[str, int]:
    """Returns the number of each special token that BERT needs; InputError names the missing ones."""
    return _special_among(tokenizer.get_vocab(), where)


def _special_among(vocabulary: dict[str, int], where: str) -> dict[str, int]:
    if missing := [name for name in SPECIAL_TOKENS if name not in vocabulary]:
        raise InputError(f"{where}: has no {', '.join(missing)}; BERT needs {', '.join(SPECIAL_TOKENS)}")
    return {name: vocabulary[name] for name in SPECIAL_TOKENS}


def ordinary_ids(tokenizer: Tokenizer, where: str = "the vocabulary") -> NDArray[np.int64]:
    """Returns the number of every token that is not special, ascending; InputError if there is none."""
    special = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    ordinary = set(tokenizer.get_vocab().values()) - special - set(special_ids(tokenizer, where).values())
    if not ordinary:
        raise InputError(
            f"{where}: has no ordinary token, only {tokenizer.get_vocab_size()} special ones; use one trained on text"
        )
    return np.array(sorted(ordinary), dtype=np.int64)


def continued_ids(tokenizer: Tokenizer) -> NDArray[np.bool_]:
    """Returns whether each token continues the word before it ('##ing'), bool[vocabulary]."""
    continued = np.zeros(tokenizer.get_vocab_size(), dtype=np.bool_)
    continued[[number for token, number in tokenizer.get_vocab().items() if token.startswith(_CONTINUED)]] = True
    return continued


def gap(tokenizer: Tokenizer) -> str:
    """Returns the text between two separately decoded texts: nothing if a space has a token, as with characters."""
    return "" if tokenizer.encode(" ", add_special_tokens=False).ids else " "


def fingerprint(tokenizer: Tokenizer) -> str:
    """Returns the SHA-256 of what maps text to numbers: the tokens, their numbers and the rules that cut text."""
    parts = json.loads(tokenizer.to_str())
    decisive = {name: parts[name] for name in ("normalizer", "pre_tokenizer", "model")}
    # Text never contains special tokens, nor BERT's placeholders, which enlarge a vocabulary.
    added = [token for token in parts["added_tokens"] if not token["special"] and token["content"][:7] != "[unused"]
    if added:
        decisive["added_tokens"] = added
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def _tokenizer(model: models.Model, *, lowercase: bool = True) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _goes_on_words(letter: str) -> bool:
    """Returns whether a letter can follow another in a word: no mark can, and no Chinese character."""
    spaced = normalizers.BertNormalizer(lowercase=True).normalize_str(f"a{letter}")
    return len(pre_tokenizers.BertPreTokenizer().pre_tokenize_str(spaced)) == 1


def _without_long_words(text: str) -> str:
    """Returns `text` with a space after every `_LONGEST_WORD` characters of a longer word."""
    words = text.split()
    if max(map(len, words), default=0) <= _LONGEST_WORD:
        return text
    return " ".join(
        word[begin : begin + _LONGEST_WORD] for word in words for begin in range(0, len(word), _LONGEST_WORD)
    )
