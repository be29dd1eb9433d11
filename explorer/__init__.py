"""The program in your hands: window, pilot, engine process, recorder, remote viewers."""

import os

os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # its greeting would end up in what programs read
