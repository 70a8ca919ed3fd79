"""Under which licence a network is handed over: an SPDX identifier, or a text of one's own."""

from __future__ import annotations

import re
from pathlib import Path

_ONE = r"[A-Za-z0-9][A-Za-z0-9.-]*\+?"
_EXPRESSION = re.compile(rf"\(*{_ONE}\)*(?: (?:AND|OR|WITH) \(*{_ONE}\)*)*")
_LARGEST = 1 << 20  # bytes of a text


def read_licence(given: str | None) -> dict[str, str] | None:
    """What ``licence=...`` says, as plain data (else ValueError).

    Args:
        given: A file, whose text is taken, or an SPDX expression such as "CC-BY-NC-4.0"; None for none.

    Returns:
        The keys "name" and "text" of a file, or "identifier".
    """
    if given is None:
        return None
    path = Path(str(given))
    if path.is_file():
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"licence={given} has more than {_LARGEST} bytes, which is no licence's text.")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"licence={given} is no text in UTF-8 ({error}).") from error
        return {"name": path.name, "text": text}
    if not _EXPRESSION.fullmatch(str(given)) or path.suffix.lower() in (".txt", ".md"):
        raise ValueError(
            f"licence={given} is neither a file nor an SPDX identifier, such as CC-BY-NC-4.0, Apache-2.0 or "
            "LicenseRef-Mine (https://spdx.org/licenses)."
        )
    return {"identifier": str(given)}
