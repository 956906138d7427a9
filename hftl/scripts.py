"""Scripts that are written without spaces between words: which letters they have.

Chinese and Japanese; Thai, Lao, Khmer, Burmese and their neighbours in the region. Korean and Tibetan are not among them: Korean
has spaces, and Tibetan a dot after each syllable.
"""

from __future__ import annotations

import re

UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e"  # Thai, without its digits and its sign of money
    "\u0e81-\u0ece\u0edc-\u0edf"  # Lao
    "\u1000-\u103f\u1050-\u108f\u109a-\u109d\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa76\uaa7a-\uaa7f"  # Burmese, Mon, Shan, Karen
    "\u1780-\u17d3\u17d7\u17dc\u17dd"  # Khmer
    "\u1950-\u1974\u1980-\u19c9\u1a20-\u1a7c\uaa80-\uaadd"  # Tai Le, New Tai Lue, Tai Tham, Tai Viet
    "\u1b00-\u1b4b\ua980-\ua9c0"  # Balinese, Javanese
    "\u3005\u3006\u3031-\u3035\u303b\u303c"  # signs that repeat a character
    "\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Hiragana, Katakana
    "\u3105-\u312f\u31a0-\u31bf"  # Bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # Chinese characters
)
"""Letters and marks of these scripts, as the inside of a character class of a regular expression: Python's, and tokenizers'."""

_LETTER = re.compile(f"[{UNSPACED}]")


def unspaced(text: str) -> int:
    """How many letters of such scripts a text has: 4 in "LG 外卖 好吃"."""
    return 0 if text.isascii() else len(_LETTER.findall(text))
