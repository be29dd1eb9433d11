"""Colours and the scale of type: one warm accent on cool dark. The window, the station and the web pages share them.

`viewer/viewer.css` writes the same values as custom properties; a test compares them.
"""

from __future__ import annotations

Color = tuple[int, int, int]

INK: Color = (238, 241, 245)  # what is read
QUIET: Color = (179, 188, 200)  # what explains it
FAINT: Color = (139, 149, 163)  # what may be overlooked
GROUND: Color = (11, 14, 19)  # behind everything
ACCENT: Color = (234, 182, 118)  # what to press, and what is chosen
GOOD: Color = (134, 207, 155)
ALERT: Color = (239, 148, 134)
GLASS = (13, 17, 22, 184)  # panels over the world
TRACK = (62, 67, 74, 210)  # the empty part of a bar in a panel

SIZES = {
    "small": 14,
    "body": 17,
    "lead": 22,
    "title": 24,
    "large": 40,
    "hero": 68,
}  # pixels in a window 800 pixels high
BOLD = frozenset({"title", "large", "hero"})  # sizes set in the semibold weight
RADIUS = 14  # of a panel's corners, in the same pixels
