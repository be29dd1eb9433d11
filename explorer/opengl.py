"""Who draws windows on this machine, and whether that is the CPU. `python -m explorer.opengl` prints the name."""

from __future__ import annotations

import os
import subprocess
import sys

import moderngl
import pygame

from explorer.window import open_gl

CPU = ("llvmpipe", "softpipe", "swiftshader")
PATIENCE = 20.0  # seconds for a driver to open a window


def context() -> moderngl.Context:
    """Of the window that is open, whichever of EGL, GLX, WGL and Cocoa it was made with."""
    moderngl.init_context()  # create_context finds only GLX's when a process opens a second window
    return moderngl.get_context()


def is_cpu(renderer: str) -> bool:
    """Whether a renderer of this name is a program on the CPU."""
    return any(name in renderer.lower() for name in CPU)


def examined() -> str:
    """The name of the renderer, "" where no window opens. A process of its own asks: drivers hang and crash."""
    command = [
        sys.executable,
        "-P",
        "-W",
        "ignore",
        "-m",
        "explorer.opengl",
    ]  # -P: nothing is imported from here
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=True, env=env
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def main() -> None:
    """Ask a small window that is never shown."""
    pygame.display.init()
    open_gl((64, 64), hidden=True)
    print(context().info["GL_RENDERER"])  # noqa: T201 -- this is what was asked for


if __name__ == "__main__":
    main()
