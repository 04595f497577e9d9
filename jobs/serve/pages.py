"""Files of the runs' folder: reports and what stands beside them, and nothing else."""

from pathlib import Path

from fastapi import Response
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

KINDS = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".csv": "text/csv; charset=utf-8",
    ".parquet": "application/octet-stream",
    ".md": "text/plain; charset=utf-8",
    ".bin": "application/octet-stream",
}


def page(root: Path, path: str) -> Response:
    """A file below `root` of one of KINDS; a folder is its `index.html` or `report.html`.

    Raises:
        HTTPException: 404, for what is not there and for what may not be seen alike.
    """
    if "\0" in path or any(part.startswith(".") for part in path.split("/")):
        raise HTTPException(404, "there is no such page")
    root = root.resolve()
    try:
        found = (root / path).resolve()
        if found.is_dir():
            names = (found / "index.html", found / "report.html")
            found = next((name.resolve() for name in names if name.is_file()), found)
        there = found.is_file() and found.is_relative_to(root)
    except OSError:  # a name that no file system takes
        there = False
    if not there or found.suffix not in KINDS:
        raise HTTPException(404, "there is no such page")
    return FileResponse(found, media_type=KINDS[found.suffix])
