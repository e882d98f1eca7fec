"""Vocabularies of single characters and of bytes: few tokens, so that a small model learns what they mean."""

from collections.abc import Callable, Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from anybatch.data.vocabulary import SPECIAL_TOKENS, most_frequent, with_special_tokens
from anybatch.errors import InputError

FEWEST_CHARACTERS = 32


def characters(texts: Callable[[], Iterable[str]], size: int) -> Tokenizer:
    """Makes a tokenizer of single characters, at most `size` tokens: the special ones, the space, then the others.

    Text is lower-cased and loses its accents, as for WordPiece. The characters are the fewest that cover 99.95 % of the
    text; another character is [UNK]. `texts` is called once. Decoding gives back the normalized text.

    Raises:
        InputError: `size` is below 32, or the texts have no character.
    """
    if size < FEWEST_CHARACTERS:
        raise InputError(f"vocabulary size {size}: must be at least {FEWEST_CHARACTERS} for characters")
    normalizer = normalizers.BertNormalizer(lowercase=True, handle_chinese_chars=False)
    alphabet = most_frequent(texts(), normalizer, most=size - len(SPECIAL_TOKENS) - 1, fewest=0)
    if not alphabet:
        raise InputError("the texts hold no character to make a vocabulary of")
    tokenizer = _of_symbols([" ", *alphabet])
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Fuse()
    return with_special_tokens(tokenizer)


def single_bytes() -> Tokenizer:
    """Makes the tokenizer of UTF-8 bytes: the special tokens, then one token a byte, 261. It keeps any text unchanged.

    Tokens are written as GPT-2 writes bytes: a space is 'Ġ'.
    """
    tokenizer = _of_symbols(sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return with_special_tokens(tokenizer)


def _of_symbols(symbols: list[str]) -> Tokenizer:
    """Makes a byte-pair encoding without a pair: each symbol is a token."""
    numbers = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *symbols])}
    return Tokenizer(models.BPE(numbers, [], unk_token="[UNK]"))
