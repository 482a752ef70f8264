"""What the documentation site takes from the repository around ``docs/``.

README.md and its like become pages, so that nothing is written twice, and links that
leave ``docs/`` lead to the repository (``repo_url`` in mkdocs.yml), or are plain text
as long as it has no address. A link to a file that does not exist is a warning, and
warnings are errors.
"""

import logging
import os.path
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
# Pages by their place on the site: where their text lies in the repository.
PAGES = {
    "index.md": "README.md",
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
# `[text](target)`, without those of pictures; targets have no blanks here.
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")
FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)

log = logging.getLogger("mkdocs.hooks.repository")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages whose text lies outside of ``docs/``."""
    for place, name in PAGES.items():
        text = (ROOT / name).read_text("utf-8")
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(
    markdown: str, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Turn the links of a page into those of the site."""
    place = page.file.src_uri
    source = PAGES.get(place, f"docs/{place}")
    return links_of_the_site(markdown, source, place, config.repo_url)


def links_of_the_site(text: str, source: str, place: str, repo_url: str | None) -> str:
    """Rewrite the relative links of a page.

    Args:
        text (str): Markdown.
        source (str): Where it lies in the repository.
        place (str): Where it lies on the site, with the ending ``.md``.
        repo_url (str, optional): Address of the repository.
    """

    def rewritten(match: re.Match) -> str:
        is_picture, title, link = match.groups()
        target, _, anchor = link.partition("#")
        if not target or ":" in target:
            return match[0]
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if not (ROOT / path).exists():
            log.warning("%s links to %s, which does not exist", source, target)
            return match[0]
        if on_site := place_on_site(path):
            new = posixpath.relpath(on_site, posixpath.dirname(place) or ".")
            new += f"#{anchor}" if anchor else ""
        elif repo_url:
            new = f"{repo_url.rstrip('/')}/blob/main/{path}"
        else:
            return title
        return f"{is_picture}[{title}]({new})"

    # Code is left as it is.
    parts, end = [], 0
    for fence in FENCE.finditer(text):
        parts += [LINK.sub(rewritten, text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, LINK.sub(rewritten, text[end:])])


def place_on_site(path: str) -> str | None:
    """Where a file of the repository lies on the site; None if it is no part of it."""
    for place, name in PAGES.items():
        if path == name:
            return place
    inside = os.path.relpath(path, "docs").replace(os.sep, "/")
    if inside.startswith("../") or inside.startswith(("data/", "site/")):
        return inside if inside == "data/README.md" else None
    return inside
