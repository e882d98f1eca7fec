import re
from itertools import islice
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from anybatch.data import builtin
from anybatch.data.builtin import clean, python_documents


def test_prose_stays_and_the_rest_goes() -> None:
    text = """
    The "len" function
    ******************

    Return the *length* of an object.  See :func:`~os.path.join` and ``range`` [1]_, which
    is described in :ref:`the manual <ref>`.

       >>> len([1, 2])
       2
       and this is the output of it

       size ::= "len" "(" argument ")"

       def size(x): return x.__len__()

    - It is the first of the items.
    - It is the second of the items,
      over two lines of the text.

    +-------+----------------------+
    | word  | what it is in a table |
    +-------+----------------------+

    .. note:: This is not for the reader.
    """
    assert clean(text).split("\n\n") == [
        "Return the length of an object. See os.path.join and range, which is described in the manual.",
        "It is the first of the items.",
        "It is the second of the items, over two lines of the text.",
    ]


@pytest.mark.slow
def test_there_is_much_english_and_always_the_same() -> None:
    documents = list(python_documents())
    words = [word for document in documents for word in document.split()]
    assert len(documents) > 200
    assert len(words) > 150_000
    assert sum(word.lower() in {"the", "a", "of", "to", "is", "and"} for word in words) > 0.15 * len(words)
    assert sum(re.search(r">>>|::=|[*]{3}|={3}", word) is not None for word in words) < 0.0001 * len(words)
    assert documents[:90] == list(islice(python_documents(), 90))


def test_topics_come_first_in_order() -> None:
    first, *_ = (clean(topics[name]) for name in sorted(topics))
    assert next(python_documents()) == first
    assert sorted(topics)[0] == "assert"


def test_modules_that_cannot_be_read_are_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = "This is what the module is for, and it is said in more words than are needed for it. "
    for name, content in {
        "good.py": f'"""{sentence * 2}"""\nif True:\n    def inner():\n        """{sentence}"""\n'.encode(),
        "doubtful.py": f'"""{sentence * 2}"""\nx = "\\d"\n'.encode(),
        "broken.py": b'"""This one cannot be parsed.""" def',
        "binary.py": b"\x00\xff",
        "half.py": f'"""{sentence * 2} \\ud800"""'.encode(),
        "test/left_out.py": f'"""{sentence * 2}"""'.encode(),
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    monkeypatch.setattr(builtin.sysconfig, "get_path", lambda name: str(tmp_path))
    modules = [document for document in python_documents() if "This is what" in document]
    assert [document.count("This is what") for document in modules] == [2, 3, 2], "doubtful.py, good.py and half.py"
