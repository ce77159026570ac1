"""Names of people and rooms: which ones there may be, and which of them look alike.

Two names are the same when their folds are: compatibility forms (NFKC), case, and letters of other scripts that look
like Latin ones are all levelled. So nobody can take a name that a reader would take for somebody else's.
"""

from __future__ import annotations

import re
import unicodedata

NICK_CHARS_MAX = 24
ROOM_CHARS_MAX = 40
UNLOGGED = "~"
"""A room whose name begins with it keeps no history; everybody can see that it does not."""

# After case folding: letters of other scripts that are drawn like Latin ones, and strokes that look the same in many
# fonts.
_LOOKALIKES = str.maketrans(
    {
        **dict(zip("авсԁеһіјӏкмнопрԛѕтѵԝхуг", "abcdehijlkmhonpqstvwxyr", strict=True)),  # Cyrillic
        **dict(zip("γαβεηικνορτυχω", "yabenikvoptuxw", strict=True)),  # Greek
        **dict(zip("յոսօց", "jnuog", strict=True)),  # Armenian
        **dict(zip("0", "o", strict=True)),
    }
)
_STROKES = str.maketrans("i1ı|", "llll")
_INSIDE = frozenset("-_.")
# Letters and marks by their category, yet nothing is drawn for them: fillers, joiners, variation selectors.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def check_nick(nick: str) -> str:
    """The nickname as it will be shown.

    Raises:
        ValueError: nobody can have it; the message says why.
    """
    return _check(nick, "nickname", NICK_CHARS_MAX)


def check_room(room: str) -> str:
    """The room's name as it will be shown; a `#` in front, as elsewhere, is taken off.

    Raises:
        ValueError: no room can have it; the message says why.
    """
    room = room.removeprefix("#")
    if room.startswith(UNLOGGED):
        return UNLOGGED + _check(room[1:], "room name", ROOM_CHARS_MAX - 1).lower()
    return _check(room, "room name", ROOM_CHARS_MAX).lower()


def _check(name: str, what: str, chars_max: int) -> str:
    name = unicodedata.normalize("NFKC", name)
    if not name:
        raise ValueError(f"a {what} is needed: letters, digits, and - _ . inside")
    if len(name) > chars_max:
        raise ValueError(f"a {what} has at most {chars_max} characters, not {len(name)}")
    if not name[0].isalnum():
        raise ValueError(f"a {what} begins with a letter or a digit")
    marks = 0
    for char in name:
        marks = marks + 1 if unicodedata.category(char) in ("Mn", "Mc") else 0
        if _INVISIBLE.match(char) or not (char.isalnum() or char in _INSIDE or 0 < marks <= 2):
            raise ValueError(f"a {what} is made of letters, digits, and - _ . inside: {char!a} is none of them")
    return name


def fold(name: str) -> str:
    """What two names that look alike have in common."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    folded = unicodedata.normalize("NFKC", folded).translate(_LOOKALIKES).translate(_STROKES)
    return folded.replace("rn", "m").replace("vv", "w")


def is_logged(room: str) -> bool:
    """Whether the room keeps its history."""
    return not room.startswith(UNLOGGED)
