"""Looking words up gives what the tokenizer gives, for any text."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from anybatch.data import vocabulary, words
from anybatch.data.words import Encoder, looks_at_words_alone
from anybatch.errors import InputError

HARD = "aB Ünïcode co\u0301op\u200bera 日本語, x\u3000y \u0130\u03a3 don't 3.50 [MASK] ##x \ufb01 \xa0z \u1e9b\u0323"


def copy_of(tokenizer: Tokenizer) -> Tokenizer:
    other = Tokenizer.from_str(tokenizer.to_str())
    other.encode_special_tokens = True
    return other


@pytest.fixture(scope="module")
def fast(tokenizer: Tokenizer) -> Encoder:
    return Encoder(copy_of(tokenizer))


def by_tokenizer(tokenizer: Tokenizer, sentences: list[str]) -> list[list[int]]:
    return [tokenizer.encode(sentence, add_special_tokens=False).ids for sentence in sentences]


def split(encoder: Encoder, sentences: list[str]) -> list[list[int]]:
    tokens, lengths = encoder.encode(sentences)
    assert lengths.sum() == len(tokens)
    return [part.tolist() for part in np.split(tokens, np.cumsum(lengths)[:-1])] if sentences else []


@given(st.lists(st.text() | st.text(alphabet=HARD), max_size=6))
@settings(deadline=None, max_examples=200)
def test_any_single_spaced_text(fast: Encoder, tokenizer: Tokenizer, texts: list[str]) -> None:
    sentences = [" ".join(text.split()) for text in [*texts, HARD]]
    assert fast.by_word
    assert split(fast, sentences) == by_tokenizer(tokenizer, sentences)


def test_a_full_table_is_begun_anew(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_MOST_WORDS", 20)
    monkeypatch.setattr(words, "_CHARACTERS_AT_ONCE", 50)
    sentences = [f"word{number} and word{number // 2}" for number in range(100)]
    assert split(Encoder(tokenizer, by_word=True), sentences) == by_tokenizer(tokenizer, sentences)


def test_another_pipeline_is_left_to_the_tokenizer(tokenizer: Tokenizer) -> None:
    assert looks_at_words_alone(copy_of(tokenizer))
    added, prepended, regular, special = (copy_of(tokenizer) for _ in range(4))
    added.add_tokens([AddedToken("new york")])
    prepended.normalizer = normalizers.Prepend("x")
    regular.pre_tokenizer = pre_tokenizers.Split(" ba", "isolated")
    special.encode_special_tokens = False
    sentences = ["ba ba co new york di ba", "", "x"]
    for other in (added, prepended, regular, special):
        assert not looks_at_words_alone(other)
        encoder = Encoder(other)
        assert split(encoder, sentences) == by_tokenizer(other, sentences)


def test_cased_and_uncased_word_lists(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join([*vocabulary.SPECIAL_TOKENS, "[unused0]", "the", "The", "##s"]) + "\n")
    assert vocabulary.load(path).encode("The thes", add_special_tokens=False).tokens == ["The", "the", "##s"]
    path.write_text("\n".join([*vocabulary.SPECIAL_TOKENS, "[unused0]", "the", "##s"]))
    tokenizer = vocabulary.load(path)
    assert tokenizer.encode("The thes", add_special_tokens=False).tokens == ["the", "the", "##s"]
    assert looks_at_words_alone(tokenizer)
    assert vocabulary.in_folder(tmp_path) == path
    (tmp_path / "tokenizer.json").touch()
    assert vocabulary.in_folder(tmp_path).name == "tokenizer.json"
    for tokens, message in (
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the"], r"vocab.txt: has no \[MASK\]; BERT needs"),
        ([*vocabulary.SPECIAL_TOKENS, "the", "a", "the"], r"vocab.txt:6: 'the' occurs twice in the vocabulary"),
    ):
        path.write_text("\n".join(tokens))
        with pytest.raises(InputError, match=message):
            vocabulary.load(path)
