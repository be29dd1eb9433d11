"""The command line: words to configs to one command; the only file that starts and stops anything.

A command's module is imported when it is called, so that `explorer --help` answers at once.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import FrameType
from typing import TypeVar

Options = TypeVar("Options")
STAGES = {  # of training, in their order
    "all": "everything below, one after the other",
    "codec": "pictures to latents and back",
    "world": "the model, on rendered flights",
    "long": "the same, on its own flights as context",
    "distill": "the same, in few steps, against a judge",
}
BOX = " │╭╮╰╯─"  # what tyro frames its messages with

FIRST_WORDS = """\
World Explorer turns one picture into a place you fly through.

Try first:
  explorer fly                    choose a scene and fly
  explorer fly photo.jpg          fly into a photograph of yours
  explorer fly --prompt "snowy pines at dusk"
                                  fly into a place made of your words
  explorer fly my.world           go on with a flight saved by F5
  explorer serve                  fly in a browser, others may watch
  explorer kiosk --example        a demo station that runs by itself: its settings, to begin with
  explorer fly --path w-48,dw-32,w-80 --out flight.mp4
                                  a film, without a window

More:
  explorer settings               your keys, mouse, gamepad and folders
  explorer export FILM DIR        a recorded flight for other programs
  explorer convert IN OUT --from NAME --to NAME
                                  camera paths between programs
  explorer render photo.jpg --path w-240 --out film.mp4
                                  the same, larger and slower; Ctrl-C and go on later
  explorer doctor                 what this machine can run
  explorer download sana-wm       NVIDIA's large model, for a large GPU
  explorer evaluate               how true the built-in world is
  explorer train all              train the built-in world yourself; explorer train --help: its stages
  explorer bench pocket           how fast this machine is; explorer bench --help: all parts
  explorer COMMAND --help         all that a command can do
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit code: 0, 2 for a user's mistake, 130 after Ctrl-C, 141 where nobody listens."""
    try:
        try:
            return _carried_out(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # as `head` leaves: what is still to be said goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _carried_out(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(FIRST_WORDS, end="")  # noqa: T201 -- this is what was asked for
        return 0
    command, rest = arguments[0], arguments[1:]
    if command not in COMMANDS:
        return _mistake(
            f"there is no command '{command}': use {', '.join(COMMANDS)}, or none to see what to try"
        )
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return COMMANDS[command](rest)
    except ValueError as error:
        return _mistake(" ".join(str(error).split()))
    except KeyboardInterrupt:
        return 130
    finally:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    """A polite kill ends as Ctrl-C does: recordings closed, processes gone. A shell's background job hears both."""
    raise KeyboardInterrupt


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 -- for people


def _mistake(sentence: str) -> int:
    print(f"explorer: {sentence}", file=sys.stderr)  # noqa: T201 -- the one place that tells the user
    return 2


def options(kind: type[Options], arguments: Sequence[str], program: str) -> Options:
    """Flags to a dataclass. A flag that is wrong raises ValueError with one sentence; --help prints and exits."""
    import tyro

    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            return tyro.cli(kind, args=arguments, prog=program)
    except SystemExit as ended:
        if not ended.code:
            raise
    raise ValueError(f"{_sentence(told.getvalue())}: see {program} --help")


def _sentence(told: str) -> str:
    """What the parser's framed message says, without frame, title and repetition."""
    words = " ".join(line.strip(BOX) for line in told.splitlines()[1:])
    if number := re.search(
        r"Error parsing (--[\w-]+): (?:invalid literal|could not convert)[^']*'(.*?)'", words
    ):
        return f"{number[1]} cannot be '{number[2]}'"
    words = re.sub(r"Error parsing [^:]*: |─{3,}|-{3,}|For full helptext.*", "", words)
    if value := re.search(r"instantiated from \['(.*?)'\].*?(--[\w-]+)", words):
        return f"{value[2]} cannot be '{value[1]}'"
    return " ".join(words.split()).rstrip(".") or "these words make no command"


def _fly(arguments: Sequence[str]) -> int:
    from explorer.fly import Fly

    return options(Fly, arguments, "explorer fly").run()


def _render(arguments: Sequence[str]) -> int:
    from explorer.render import Render

    return options(Render, arguments, "explorer render").run()


def _download(arguments: Sequence[str]) -> int:
    from explorer.download import Download

    return options(Download, arguments, "explorer download").run()


def _doctor(arguments: Sequence[str]) -> int:
    from explorer.doctor import Doctor

    return options(Doctor, arguments, "explorer doctor").run()


def _serve(arguments: Sequence[str]) -> int:
    from explorer.serve import ServeOptions, serve

    serve(options(ServeOptions, arguments, "explorer serve"), say=_say)
    return 0


def _kiosk(arguments: Sequence[str]) -> int:
    from explorer.kiosk.command import Kiosk

    return options(Kiosk, arguments, "explorer kiosk").run(_say)


def _train(arguments: Sequence[str]) -> int:
    what, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
    if what in ("-h", "--help"):
        lines = [f"  explorer train {name:<8} {does}" for name, does in STAGES.items()]
        _say("\n".join(["Train one of", *lines, "explorer train STAGE --help says more."]))
        return 0
    if what not in STAGES:
        raise ValueError(
            f"there is nothing '{what}' to train: use explorer train with one of {', '.join(STAGES)}"
        )
    import importlib
    import typing

    train = getattr(importlib.import_module(f"engine.train.{what}"), f"train_{what}")
    kind = typing.get_type_hints(train)["options"]
    train(options(kind, rest, f"explorer train {what}"))
    return 0


def _evaluate(arguments: Sequence[str]) -> int:
    from engine.measure.evaluation import Evaluation
    from explorer.assets import assets_folder

    chosen = options(Evaluation, arguments, "explorer evaluate")
    from engine.measure.command import evaluate

    evaluate(chosen if chosen.assets else replace(chosen, assets=assets_folder() / "pocket"))
    return 0


def _bench(arguments: Sequence[str]) -> int:
    from explorer.bench.latency import BenchLatency
    from explorer.bench.part import PARTS, Part, told

    kinds: dict[str, type[Part] | type[BenchLatency]] = {"latency": BenchLatency, **PARTS}
    what, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
    if what in ("-h", "--help"):
        _say(told(kinds))
        return 0
    if what not in kinds:
        raise ValueError(
            f"there is nothing '{what}' to measure: use explorer bench with one of {', '.join(kinds)}"
        )
    return options(kinds[what], rest, f"explorer bench {what}").run()


def _convert(arguments: Sequence[str]) -> int:
    from explorer.convert import Convert

    _say(options(Convert, arguments, "explorer convert").run())
    return 0


def _export(arguments: Sequence[str]) -> int:
    from explorer.exporting import ExportOptions
    from explorer.unattended import progress_bar

    chosen = options(ExportOptions, arguments, "explorer export")
    with progress_bar() as bar:
        task = bar.add_task("exporting")
        sentence = chosen.run(lambda done, total: bar.update(task, completed=done, total=total))
    _say(sentence)
    return 0


def _settings(arguments: Sequence[str]) -> int:
    from explorer.settings_file import SettingsOptions

    _say(options(SettingsOptions, arguments, "explorer settings").run().rstrip("\n"))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "fly": _fly,
    "render": _render,
    "serve": _serve,
    "download": _download,
    "doctor": _doctor,
    "kiosk": _kiosk,
    "train": _train,
    "evaluate": _evaluate,
    "convert": _convert,
    "export": _export,
    "settings": _settings,
    "bench": _bench,
}

if __name__ == "__main__":
    sys.exit(main())
