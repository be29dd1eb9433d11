"""The command line: words to configs to one command; the only file that starts and stops anything.

A command's module is imported when it is called, so that `explorer --help` answers at once.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType

FIRST_WORDS = """\
World Explorer turns one picture into a place you fly through.

Try first:
  explorer fly                    choose a scene and fly
  explorer fly photo.jpg          fly into a photograph of yours
  explorer serve                  fly in a browser, others may watch
  explorer fly --path w-48,dw-32,w-80 --out flight.mp4
                                  a film, without a window

More:
  explorer train codec|world      train the built-in world yourself
  explorer COMMAND --help         all that a command can do
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0, 2 for a user's mistake, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(FIRST_WORDS, end="")  # noqa: T201 -- this is what was asked for
        return 0
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        return _mistake(
            f"there is no command '{command}': use {', '.join(COMMANDS)}, or none to see what to try"
        )
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return COMMANDS[command](rest)
    except ValueError as error:
        return _mistake(" ".join(str(error).split()))
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """A polite kill ends as Ctrl-C does: recordings closed, processes gone."""
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 -- for people


def _mistake(sentence: str) -> int:
    print(f"explorer: {sentence}", file=sys.stderr)  # noqa: T201 -- the one place that tells the user
    return 2


def _fly(arguments: Sequence[str]) -> int:
    import tyro

    from explorer.fly import Fly

    return tyro.cli(Fly, args=arguments, prog="explorer fly").run()


def _serve(arguments: Sequence[str]) -> int:
    import tyro

    from explorer.serve import ServeOptions, serve

    serve(tyro.cli(ServeOptions, args=arguments, prog="explorer serve"), say=_say)
    return 0


def _train(arguments: Sequence[str]) -> int:
    what, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
    if what not in ("codec", "world"):
        raise ValueError(
            f"there is nothing '{what}' to train: use explorer train codec or explorer train world"
        )
    import importlib
    import typing

    import tyro

    train = getattr(importlib.import_module(f"engine.train.{what}"), f"train_{what}")
    options = typing.get_type_hints(train)["options"]
    train(tyro.cli(options, args=rest, prog=f"explorer train {what}"))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {"fly": _fly, "serve": _serve, "train": _train}

if __name__ == "__main__":
    sys.exit(main())
