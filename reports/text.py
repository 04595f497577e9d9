"""How strings get into a page: text from models and data sets is shown, never interpreted."""

import html
import json
import re
from datetime import datetime
from math import isfinite
from typing import Any

_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls but tab and newline
    "\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"  # marks, bidi, invisible
    "\ud800-\udfff"  # lone surrogates: not text at all
    "\U000e0000-\U000e007f]"  # tags
)


def visible(text: str) -> str:
    """Makes characters visible that would be lost or would turn the text around.

    ASCII controls become their pictures (NUL: U+2400), other hidden characters their escapes
    (a right-to-left override: the six characters backslash, u, 2, 0, 2, e).
    """
    return _HIDDEN.sub(_picture, text)


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def shortened(text: str, limit: int) -> str:
    """At most `limit` characters; what is left out is counted."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]} … [{len(text) - limit:,} more characters]"


def markdown_text(text: str) -> str:
    """Text that no Markdown reader takes for anything else: no markup, link, tag or mention."""
    shown = visible(text).replace("\n", " ")
    quiet = "".join(f"\\{c}" if c in "\\`*_{}[]<>()#|!~&:" else c for c in shown)
    return quiet.replace("@", "@\u200b")


def plot_text(text: str) -> str:
    """A string for plotly, which reads a few HTML tags in names and hover texts."""
    return html.escape(visible(text))


def script_json(value: Any) -> str:
    """JSON that is inert inside of a <script> element; NaN and infinities become null.

    Everything but ASCII is escaped, and so are the characters that could end the element or
    open another one.
    """
    written = json.dumps(_finite(value), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return written


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return float(value) if isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def percent(share: float, n: int = 0) -> str:
    """A share as a percentage, with a decimal where n is large enough to carry it."""
    if not isfinite(share):
        return "–"
    return f"{100 * share:.{1 if n >= 1000 else 0}f}%"


def figures3(value: float) -> str:
    """Three significant figures without an exponent; a dash for NaN."""
    if not isfinite(value):
        return "–"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return (
        f"{value:.2f}"
        if abs(value) >= 0.1
        else f"{value:.3f}"
        if abs(value) >= 0.01
        else (f"{value:.2g}")
    )


def times(value: float) -> str:
    """A speedup."""
    return f"{figures3(value)}×" if isfinite(value) else "–"


def between(low: float, high: float, form: Any = figures3) -> str:
    """An interval in brackets; empty where it has no ends."""
    if not (isfinite(low) and isfinite(high)):
        return ""
    return f"[{form(low).rstrip('%×')}–{form(high)}]"


def moment(written: Any) -> str:
    """A time stamp for people; as it stands where it is none."""
    try:
        return f"{datetime.fromisoformat(str(written)):%Y-%m-%d %H:%M %Z}".strip()
    except ValueError:
        return str(written or "no date")
