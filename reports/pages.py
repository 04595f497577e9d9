"""Pages: how they get to disk, and what they let a browser run."""

import base64
import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from reports.load import ReportError


def write_page(out: Path, text: str) -> None:
    """A reader sees the old page or the new one, never half of it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, out)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def inline(script: str) -> Markup:
    """A script's text as it will be read back from a page, or ReportError if it cannot be."""
    script = script.replace("\r\n", "\n").replace("\r", "\n")
    lowered = script.lower()
    if "</script" in lowered or ("<!--" in lowered and "<script" in lowered):
        raise ReportError("the installed plotly holds text that ends a script element: try another")
    return Markup(script)


def content_policy(scripts: Sequence[str], nonce: str | None = None) -> str:
    """Content-Security-Policy: no network at all, no script but the page's own, and those of its
    folder where it has one: from disk a browser checks no digest of a file, only a nonce.

    Inline styles stay allowed: plotly adds style elements and attributes of its own. They cannot
    leak anything where nothing may be requested.
    """
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    allowed = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    if nonce is not None:
        allowed += f" 'nonce-{nonce}'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
