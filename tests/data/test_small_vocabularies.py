from pathlib import Path

import pytest
from support.shard_documents import documents as in_shards

from anybatch.data import vocabulary
from anybatch.data.inspect import summary
from anybatch.data.prepare import Kind, kind_of, prepare, tokenizer_of
from anybatch.data.shards import open_shards
from anybatch.data.small_vocabularies import characters, single_bytes
from anybatch.errors import InputError

TEXTS = ["The cat sat on the mat. Then it slept!\n\nÉté: 42 [SEP] tests."] * 3


def test_characters_are_the_letters_of_the_text_and_decode_to_it() -> None:
    tokenizer = characters(lambda: TEXTS, 64)
    vocabulary_ = tokenizer.get_vocab()
    assert sorted(vocabulary_, key=lambda token: vocabulary_[token]) == [
        *vocabulary.SPECIAL_TOKENS, " ", *"!.24:[]acehilmnopst",
    ]  # fmt: skip
    encoded = tokenizer.encode("The  CAT, été\n[SEP]", add_special_tokens=False)
    assert tokenizer.decode(encoded.ids, skip_special_tokens=False) == "the  cat[UNK] ete [sep]"
    assert encoded.offsets[4:6] == [(4, 5), (5, 6)]


def test_rare_characters_are_unknown_and_a_size_bounds_the_alphabet() -> None:
    common = "plain words " * 1000
    assert "日" not in characters(lambda: [common, "日"], 64).get_vocab()
    letters = "".join(chr(0x4E00 + number) for number in range(300))
    tokenizer = characters(lambda: [letters, "aa"], 40)
    assert tokenizer.get_vocab_size() == 40
    assert "a" in tokenizer.get_vocab()


def test_bytes_lose_nothing() -> None:
    tokenizer = single_bytes()
    assert tokenizer.get_vocab_size() == 261
    text = "The  cat, été\n\t[SEP] 日本 \x00\U0001f600 "
    encoded = tokenizer.encode(text, add_special_tokens=False)
    assert len(encoded.ids) == len(text.encode())
    assert not {0, 1, 2, 3, 4} & set(encoded.ids)
    assert tokenizer.decode(encoded.ids) == text


@pytest.mark.parametrize("kind", ["characters", "bytes"])
def test_text_is_prepared_inspected_and_read_back(tmp_path: Path, kind: Kind) -> None:
    documents = [f"The cat sat on mat{'t' * number}. Then it slept.\n\nThe end!" for number in range(9)]
    out = tmp_path / "shards"
    made = prepare(lambda: documents, out, tokenizer=kind)
    tokenizer = tokenizer_of(out)
    assert kind_of(tokenizer) == kind
    assert made["unknown_share"] == 0
    sentences = in_shards(open_shards(out / "train"))[0]
    text = "".join(tokenizer.decode(sentence.tolist()) for sentence in sentences)
    written = {f"The cat sat on mat{'t' * number}. Then it slept. The end!" for number in range(9)}
    assert text in (written if kind == "bytes" else {each.lower() for each in written})
    # What is decoded in pieces has no space but those of the text.
    example = summary(out)["examples"][0]
    assert example.startswith(("[CLS]t", "[CLS]T", "[CLS][MASK→"))
    assert "[MASK→" in example


def test_the_three_kinds_differ_in_their_fingerprints_and_sizes_too_small_are_named() -> None:
    made = [vocabulary.train(lambda: TEXTS, 256), characters(lambda: TEXTS, 64), single_bytes()]
    assert [kind_of(each) for each in made] == ["wordpiece", "characters", "bytes"]
    assert len({vocabulary.fingerprint(each) for each in made}) == 3
    assert [vocabulary.gap(each) for each in made] == [" ", "", ""]
    with pytest.raises(InputError, match="vocabulary size 31: must be at least 32 for characters"):
        characters(lambda: TEXTS, 31)
    with pytest.raises(InputError, match="hold no character"):
        characters(lambda: [" \n"], 64)
