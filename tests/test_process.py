"""A process among others: what it says holds no password."""

from anybatch.process import keep_secret, masked


def test_only_passwords_are_masked() -> None:
    for text in ("hf:org/name@train", "http://host:80/path", "a@b.c", "data.path=/a:b/c", "sqlite:////tmp/x.sqlite"):
        assert masked(text) == text
    keep_secret("postgresql://u:open%2Fsesame@host/x")
    assert masked("open/sesame or open%2Fsesame") == "*** or ***"
