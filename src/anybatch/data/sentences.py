"""Documents to sentences: removes what is no text, and splits at the end of a sentence, paragraph or list item."""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import TypeVar

Item = TypeVar("Item")

# A longer stretch without an end of a sentence is split evenly: subtitles, verse, transcripts of speech.
LONGEST_SENTENCE_WORDS = 256
_PART_WORDS = 128
# WordPiece reads a longer word as unknown, and its time and memory grow with it.
LONGEST_WORD = 1000
# A multiple of that.
_PIECE = 64_000

# Control characters except white space, the soft hyphen, byte order marks, and code points that are no character.
_NO_TEXT = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\ufeff\ufffe\uffff]+")
_PARAGRAPH_END = re.compile(r"\n\s*\n|\n(?=[ \t]*(?:[-*•‣◦▪]|\d{1,3}[.)])[ \t]+\S)")
# A sentence may end after . ! ? … and closing marks, if a capital, a digit, an opening mark or a letter of a script
# without capitals follows ...
_SPACED = r"""[.!?…؟۔।॥](?P<closing>["'”’»)\]]*)\s+""" + (
    r"""(?=["'“‘«(\[]*[A-Z0-9À-ÖØ-ÞĀĂĄĆČĎĐĒĘĚĞĪŁŃŇŌŒŘŚŞŠŤŪŮŽΑ-ΩА-Я\u0590-\u1fff\u2e80-\ud7ff\uf900-\ufdff]|["“‘«])"""
)
_END = re.compile(_SPACED)
# ... and directly after the full stops of scripts that put no space there.
_END_WITHOUT_SPACE = re.compile(_SPACED + r"|[。！？｡]+[」』”’）】》]*\s*")
_WIDE_STOP = re.compile("[。！？｡]")
_TITLES = """
al approx apr aug bros ca capt cf cmdr co col corp dec dept dr e.g esq feb fr fri ft gen gov hon i.e inc jan jr jul jun
lt ltd maj mar messrs mlle mme mon mr mrs ms mt nov oct pres prof rep rev sen sep sept sgt sr st ste supt thu thur thurs
tue tues univ viz vs wed
"""
_COUNTED = "art b bk c ch chap d eq fig figs fl no nos op p par pp pt sec sect ver vol vols"
_BEFORE_NAMES = frozenset(_TITLES.split())
_BEFORE_NUMBERS = frozenset(_COUNTED.split())
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")


def clean(text: str) -> str:
    """Returns `text` without control characters, soft hyphens and byte order marks.

    >>> clean("co\\xadoperate\\x00!")
    'cooperate!'
    """
    return _NO_TEXT.sub("", text) if _NO_TEXT.search(text) else text


def split_sentences(text: str) -> list[str]:
    """Returns the sentences of `text`, each on one line, with one space between words.

    The end of a paragraph (a blank line) and the beginning of a list item ('- ', '2. ') always end a sentence. Inside
    a paragraph, a sentence ends after '.', '!', '?' or '…' (or such a mark of Arabic, Devanagari, Chinese or Japanese)
    and the quotes and brackets that close there, if white space follows and then a capital, a digit, an opening quote
    or a letter of a script without capitals. It does not end after a common abbreviation, an initial or dotted letters
    ('J.', 'U.S.'), nor after the number of a list item ('1.'). A stretch of more than 256 words without an end is
    split evenly; a word of more than 1,000 characters is split after every thousandth.

    >>> split_sentences("Dr. J. Smith paid 3.50 dollars. “Why?” he asked.\\nNobody knew.\\n\\nThe end")
    ['Dr. J. Smith paid 3.50 dollars.', '“Why?” he asked.', 'Nobody knew.', 'The end']
    >>> split_sentences("To do:\\n- buy bread\\n- sleep\\n我来了。你呢？")
    ['To do:', '- buy bread', '- sleep 我来了。', '你呢？']
    """
    sentences: list[str] = []
    ends = _END_WITHOUT_SPACE if not text.isascii() and _WIDE_STOP.search(text) else _END
    for paragraph in _PARAGRAPH_END.split(text):
        line = (
            _on_one_line(paragraph)
            if len(paragraph) <= _PIECE
            else " ".join(filter(None, map(_on_one_line, in_pieces([paragraph]))))
        )
        start = 0
        for match in ends.finditer(line):
            if line[match.start()] == "." and not match["closing"] and _goes_on(line, start, match):
                continue
            _add(line[start : match.end()].rstrip(), sentences)
            start = match.end()
        if start < len(line):
            _add(line[start:], sentences)
    return sentences


def in_pieces(texts: Iterable[str]) -> Iterator[str]:
    """Yields the texts, in pieces of at most 64,000 characters: cut at white space, or in the middle of a longer word.

    A text of many megabytes must not become one list of its words: the list takes ten times its memory.
    """
    for text in texts:
        begin = 0
        while len(text) - begin > _PIECE:
            end = begin + _PIECE
            while end > begin and not text[end - 1].isspace():
                end -= 1
            end = end if end > begin else begin + _PIECE
            yield text[begin:end]
            begin = end
        yield text[begin:]


def in_batches(items: Iterable[Item], size: Callable[[Item], int], enough: int) -> Iterator[list[Item]]:
    """Yields the items in lists, each as short as its sizes add up to `enough`; the last may be shorter."""
    batch: list[Item] = []
    total = 0
    for item in items:
        batch.append(item)
        total += size(item)
        if total >= enough:
            yield batch
            batch, total = [], 0
    if batch:
        yield batch


def _on_one_line(text: str) -> str:
    words = text.split()
    if len(text) > LONGEST_WORD and max(map(len, words), default=0) > LONGEST_WORD:
        words = [word[at : at + LONGEST_WORD] for word in words for at in range(0, len(word), LONGEST_WORD)]
    return " ".join(words)


def _add(sentence: str, sentences: list[str]) -> None:
    # A word and its space take at least two characters.
    if len(sentence) < 2 * LONGEST_SENTENCE_WORDS or sentence.count(" ") < LONGEST_SENTENCE_WORDS:
        sentences.append(sentence)
        return
    words = sentence.split(" ")
    parts = -(-len(words) // _PART_WORDS)
    cuts = [len(words) * part // parts for part in range(parts + 1)]
    sentences.extend(" ".join(words[begin:end]) for begin, end in pairwise(cuts))


def _goes_on(line: str, start: int, match: re.Match[str]) -> bool:
    """Returns whether the full stop at `match` belongs to the word before it, in the sentence from `start`."""
    stop = match.start()
    first = max(line.rfind(" ", start, stop) + 1, start)
    word = line[first:stop].lstrip("\"'“‘«([")
    if word.isdecimal():
        return first == start
    lower = word.lower()
    if lower in _BEFORE_NUMBERS:
        return line[match.end()].isdecimal() or word.isupper()
    return lower in _BEFORE_NAMES or (_INITIALS.fullmatch(word) is not None and word != "I")
