"""A page and the folder of its data, replaced so that no reader sees one with the other's."""

import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from reports.pages import write_page

_OURS = re.compile(r"[0-9a-f]{16}\.js")


def folder_of(page: Path) -> Path:
    """`report.data` of `report.html`."""
    return page.with_name(f"{page.stem}.data")


def publish(page: Path, text: str, files: Mapping[str, str]) -> None:
    """Writes a page and the files of its folder.

    The files' names tell their content, so that new ones never replace those of the page that is
    still there: they are written first, then the page at once, and what no page needs goes last.

    Raises:
        OSError: something cannot be written; the old page is left as it was.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    folder = folder_of(page)
    if files:
        folder.mkdir(exist_ok=True)
    for name, content in files.items():
        if not (folder / name).is_file():
            write_page(folder / name, content)
    write_page(page, text)
    with suppress(OSError):  # what stays is never read
        for path in list(folder.iterdir()):
            if _OURS.fullmatch(path.name) and path.name not in files:
                path.unlink()
        if not files:
            folder.rmdir()
