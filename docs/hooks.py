"""Hooks of mkdocs: decisions are listed by themselves, and files outside of docs that a page links to come along.

A link like `../benchmarks/results/x.json` is right wherever the repository is shown; in the site that file lies under
`files/`.
"""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")


def outside(page: str, target: str) -> str | None:
    """The repository's file that `target` means on the page, where it is not one of the pages' own folder."""
    here = PurePosixPath(page)
    folder = here.relative_to("files").parent if here.parts[0] == "files" else PurePosixPath("docs") / here.parent
    found = normpath(str(folder / target))
    return None if found.startswith("docs/") or not (ROOT / found).is_file() else found


def on_config(config: Any) -> Any:
    """Fills the decisions in."""
    folder = Path(config.docs_dir) / "adr"
    (last,) = (entry for entry in config.nav if "Decisions" in entry)
    last["Decisions"] = [f"adr/{path.name}" for path in sorted(folder.glob("*.md"))]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds what pages link to, and what those link to."""
    waiting = [file for file in files if file.src_uri.endswith(".md")]
    while waiting:
        page = waiting.pop()
        for target in LINK.findall(Path(str(page.abs_src_path)).read_text(encoding="utf-8")):
            found = outside(page.src_uri, target)
            if found is not None and files.get_file_from_path(f"files/{found}") is None:
                added = File.generated(config, f"files/{found}", abs_src_path=str(ROOT / found))
                files.append(added)
                waiting += [added] if found.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Points the links there."""
    here = page.file.src_uri

    def there(match: re.Match[str]) -> str:
        found = outside(here, match[1])
        if found is not None:
            return relpath(f"files/{found}", str(PurePosixPath(here).parent))
        if here.startswith("files/"):  # a page of the site, seen from a page of the repository
            own = normpath(str(PurePosixPath(here).relative_to("files").parent / match[1]))
            if (ROOT / own).is_dir():
                own = min(str(path.relative_to(ROOT)) for path in (ROOT / own).glob("*.md"))
            if own.startswith("docs/"):
                return relpath(own.removeprefix("docs/"), str(PurePosixPath(here).parent))
        return match[1]

    return LINK.sub(there, markdown)
