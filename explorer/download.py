"""`explorer download`: what sana-wm consists of, fetched or taken from a folder, and converted once."""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.prompt import Confirm
from rich.table import Table
from tyro.conf import FlagCreatePairsOff, Positional, arg

from engine.setup import GB, REFINER, VAE_DECODER, VAE_ENCODER, WORLD, models_folder

if TYPE_CHECKING:
    from engine.convert import Part
    from engine.release import Release
    from explorer.hub import Hub, Listing

SHORT = {"sana-wm": "sana-wm-streaming"}
CONVERTED = {"world": 2 * WORLD, "vae": 2 * (VAE_ENCODER + VAE_DECODER), "refiner": 2 * REFINER}  # bytes


@dataclass(frozen=True, kw_only=True)
class Download:
    """Fetch a released sana-wm and convert it. Sizes, licences and free disk are shown first.

    Stopped and started again, it goes on where it was.
    """

    name: Annotated[str, Positional, arg(metavar="NAME")]
    """sana-wm (or sana-wm-streaming), sana-wm-bidirectional, sana-wm-chunk-causal"""
    refiner: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """also the second stage and its text encoder, three times as large as all the rest"""
    from_: Annotated[Path | None, arg(name="from", metavar="DIR", help_behavior_hint="")] = None
    """convert files you have: a copy of the repository, or a folder of copies named like the repositories"""
    to: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """where worlds are kept; default: WORLD_EXPLORER_MODELS, else the platform's data folder"""
    yes: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """do not ask"""
    keep: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """keep the files as fetched beside the converted ones"""

    def run(self) -> int:
        """Returns 0, or 1 if the user declined. Raises ValueError."""
        from engine.release import RELEASES

        name = SHORT.get(self.name, self.name)
        if name not in RELEASES:
            raise ValueError(
                f"there is nothing '{self.name}' to download: use {', '.join((*SHORT, *RELEASES))}"
            )
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        target = (self.to or models_folder()) / name
        if self.from_ is not None:
            return self._convert(name, RELEASES[name], self.from_, target, console)
        return self._fetch(name, RELEASES[name], target, console)

    def _convert(self, name: str, release: Release, source: Path, target: Path, console: Console) -> int:
        from engine.convert import parts_of, write_record

        if not source.is_dir():
            raise ValueError(f"there is no folder {source}: check the name after --from")
        parts = parts_of(release, refiner=self.refiner)
        found = {part: place for part in parts if (place := located(part, source)) is not None}
        missing = [part for part in parts if part not in found]
        if needed := [p for p in missing if p.name != "text"]:
            raise ValueError(
                f"{source} lacks {', '.join(f'{p.path} (of {p.repository})' for p in needed)}: "
                "give a copy of the repository, or leave out --from to fetch it"
            )
        require_room(target, {part.name: CONVERTED.get(part.name, 0.0) for part in found}, release)
        convert_all(found, target, release, console)
        write_record(target, name, release, revision="local files", licence="see the release")
        if missing:
            console.print("without a text encoder: prompts cannot be read until it is fetched")
        console.print(f"{name} is in {target}")
        return 0

    def _fetch(self, name: str, release: Release, target: Path, console: Console) -> int:
        from engine.convert import parts_of, write_record
        from explorer.hub import Hub

        hub, parts = Hub(), parts_of(release, refiner=self.refiner)
        with console.status("asking the hub for sizes and licences"):
            listings = {r: hub.listing(r) for r in dict.fromkeys(part.repository for part in parts)}
        wanted = {part: listings[part.repository].within(part.path) for part in parts}
        if absent := [p for p, files in wanted.items() if not files]:
            raise ValueError(
                f"{absent[0].repository} has no {absent[0].path or 'files'} any more: update World Explorer"
            )
        store = target.parent / ".fetched"
        console.print(overview(wanted, listings, target))
        sizes = {
            part.name: sum(files.values()) + CONVERTED.get(part.name, 0.0) for part, files in wanted.items()
        }
        require_room(target, sizes, release, already=_bytes(store) + _bytes(target))
        if not (self.yes or confirmed(console)):
            console.print("nothing was fetched")
            return 1
        for part, files in wanted.items():
            fetch_part(hub, part, files, listings[part.repository], store, console)
        places = {part: part.under(store / part.repository.split("/")[-1]) for part in parts}
        convert_all(places, target, release, console)
        here = listings[release.repository]
        write_record(target, name, release, revision=here.revision, licence=here.licence)
        if not self.keep:
            shutil.rmtree(store, ignore_errors=True)
        console.print(f"{name} is in {target}: explorer fly --model sana-wm")
        return 0


def fetch_part(
    hub: Hub, part: Part, files: dict[str, int], listing: Listing, store: Path, console: Console
) -> None:
    """One part into `store`, under the name of its repository. Pickles of encoders are left where they are."""
    from engine.convert import COPIED

    chosen = [f for f in files if f == part.path or f.endswith(COPIED)]
    console.print(f"fetching {part.name}, {sum(files[f] for f in chosen) / GB:.1f} GB")
    hub.fetch(listing, chosen, store / part.repository.split("/")[-1])


def located(part: Part, source: Path) -> Path | None:
    """Where a part lies in a folder: of its repository, or of several, each under its name."""
    short = part.repository.split("/")[-1]
    roots = [source / short, source / part.repository]
    if part.path:
        roots.insert(0, source)
    return next((p for root in roots if (p := part.under(root)).exists()), None)


def convert_all(places: dict[Part, Path], target: Path, release: Release, console: Console) -> None:
    """All parts with progress in bytes."""
    from engine.convert import convert_part

    columns = (TextColumn("[progress.description]{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as bar:
        for part, source in places.items():
            total = CONVERTED.get(part.name) or float(_bytes(source))
            task = bar.add_task(f"converting {part.name}", total=total)
            convert_part(part, source, target, release=release, on_bytes=partial(bar.advance, task))
            bar.update(task, completed=total)


def overview(wanted: dict[Part, dict[str, int]], listings: dict[str, Listing], target: Path) -> Table:
    """What will be fetched, from where, under which licence."""
    table = Table(title=f"into {target}", title_justify="left")
    for column in ("part", "repository", "licence"):
        table.add_column(column)
    table.add_column("GB", justify="right")
    for part, files in wanted.items():
        licence = listings[part.repository].licence
        table.add_row(part.name, part.repository, licence, f"{sum(files.values()) / GB:.1f}")
    total = sum(sum(files.values()) for files in wanted.values())
    free = shutil.disk_usage(_existing(target)).free
    table.add_row("all", "", f"{free / GB:.0f} GB free on this disk", f"{total / GB:.1f}", style="bold")
    return table


def confirmed(console: Console) -> bool:
    if not sys.stdin.isatty():
        raise ValueError("nobody can be asked here: add --yes to accept these sizes and licences")
    return Confirm.ask("Fetch this, and accept the licences?", console=console, default=False)


def require_room(target: Path, sizes: dict[str, float], release: Release, *, already: int = 0) -> None:
    """Refuse before anything is written. The sizes are those of the published models."""
    from engine.converted import is_released

    need = sum(sizes.values()) - already if is_released(release.config) else 0.0
    free = shutil.disk_usage(_existing(target)).free
    if need > free:
        raise ValueError(
            f"this needs {need / GB:.0f} GB in {target} and {free / GB:.0f} GB are free: "
            "make room, or name another disk with --to DIR"
        )


def _existing(path: Path) -> Path:
    return next(p for p in (path, *path.absolute().parents) if p.exists())


def _bytes(path: Path) -> int:
    if path.is_file():
        return path.stat().st_size
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file()) if path.is_dir() else 0
