"""`explorer render`: stopped anywhere and started again it ends with the same film, byte by byte."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch

from engine.conditioning import Anchor
from explorer.app import main
from explorer.job import Job, fingerprint
from explorer.recorder import Recorder
from explorer.splice import joined
from tests.tiny import hills, screen, tiny_assets

LINE = "render photo.png --path w-40,dw-40 --seed 3 --threads 1 --device cpu"


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_assets(tmp_path_factory.mktemp("world") / "assets", scenes=1)


@pytest.fixture
def here(assets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORLD_EXPLORER_ASSETS", str(assets))
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("photo.png", hills(5, 400, 300))
    return tmp_path


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as film:
        return np.stack([f.to_ndarray(format="rgb24") for f in film.decode(video=0)])


def test_a_film_of_parts_is_the_film(tmp_path: Path) -> None:
    """Parts put together decode to the very frames that they decode to alone, one sixteenth of a second apart."""
    parts = []
    for i, count in enumerate((1, 8, 8, 3)):
        parts.append(tmp_path / f"{i}.mp4")
        with Recorder(parts[-1], fps=16) as film:
            for k in range(count):
                film.add(hills(i + k))
    joined(tmp_path / "film.mp4", parts)
    assert np.array_equal(decoded(tmp_path / "film.mp4"), np.concatenate([decoded(p) for p in parts]))
    with av.open(str(tmp_path / "film.mp4")) as film:
        times = [float(f.time) for f in film.decode(video=0)]
    assert np.allclose(np.diff(times), 1 / 16)


def stopped(line: str, after: str, number: int) -> subprocess.Popen[str]:
    """The command, ended by a signal as soon as its job folder has the part `after`."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    command = [sys.executable, "-m", "explorer.app", *line.split()]
    render = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(Path.cwd().glob(f"*.job/{after}")) and time.monotonic() < deadline:
        assert render.poll() is None, render.communicate()[1]
        time.sleep(0.005)
    render.send_signal(number)
    return render


def test_ctrl_c_and_go_on_is_the_same_film(here: Path) -> None:
    assert main([*LINE.split(), "--out", "whole.mp4"]) == 0
    assert not Path("whole.mp4.job").exists()
    render = stopped(f"{LINE} --out cut.mp4", "part-00003.mp4", signal.SIGINT)
    _, err = render.communicate(timeout=30)
    assert render.returncode == 130, err
    assert "goes on" in err
    assert "Traceback" not in err
    assert not Path("cut.mp4").exists()
    assert Path("cut.mp4.job/state.safetensors").exists()
    assert main([*LINE.split(), "--out", "cut.mp4"]) == 0
    assert Path("cut.mp4").read_bytes() == Path("whole.mp4").read_bytes()
    assert len(decoded(Path("cut.mp4"))) == 81


def test_a_killed_render_goes_on_too(here: Path) -> None:
    assert main([*LINE.split(), "--out", "whole.mp4"]) == 0
    stopped(f"{LINE} --out killed.mp4", "part-00004.mp4", signal.SIGKILL).communicate(timeout=30)
    assert main([*LINE.split(), "--out", "killed.mp4"]) == 0
    assert Path("killed.mp4").read_bytes() == Path("whole.mp4").read_bytes()


def test_another_request_does_not_go_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    anchor = Anchor(pose=torch.eye(4)[None], camera=torch.eye(4)[None])
    other = Job(Path("a.mp4"), request=fingerprint({"seed": 4}))
    other.keep(0, [hills(0)], anchor, fps=16)
    other.save()
    assert main([*LINE.split(), "--out", "a.mp4"]) == 2
    assert "belongs to another render" in capsys.readouterr().err
    Path("a.mp4.job/job.json").write_text("[]")
    assert main([*LINE.split(), "--out", "a.mp4"]) == 2
    assert "another render" in capsys.readouterr().err


def test_only_what_is_there_counts_as_done(tmp_path: Path) -> None:
    job = Job(tmp_path / "a.mp4", request="x")
    anchor = Anchor(pose=torch.eye(4)[None], camera=torch.eye(4)[None])
    assert job.resume(Anchor) is None
    for i in range(3):
        job.keep(i, [hills(i)], anchor, fps=16)
    job.save()
    again = Job(tmp_path / "a.mp4", request="x")
    found = again.resume(Anchor)
    assert found is not None
    assert found[0] == 3
    assert torch.equal(found[1].pose, anchor.pose)
    job.part(1).unlink()
    assert again.resume(Anchor) is None
    job.state.write_bytes(b"x")
    with pytest.raises(ValueError, match="is damaged"):
        again.resume(Anchor)


def test_a_folder_without_its_request_gets_one(tmp_path: Path) -> None:
    """As a disk leaves it that was full when the job began."""
    anchor = Anchor(pose=torch.eye(4)[None], camera=torch.eye(4)[None])
    (tmp_path / "a.mp4.job").mkdir()
    job = Job(tmp_path / "a.mp4", request="x")
    job.keep(0, [hills(0)], anchor, fps=16)
    job.save()
    with pytest.raises(ValueError, match="belongs to another render"):
        Job(tmp_path / "a.mp4", request="y")


def test_a_state_without_a_place_is_one_sentence(tmp_path: Path) -> None:
    anchor = Anchor(pose=torch.eye(4)[None], camera=torch.eye(4)[None])
    (tmp_path / "place").touch()  # no folder can be made in it
    job = Job(tmp_path / "place" / "a.mp4", request="x")
    with pytest.raises(ValueError, match=r"cannot write .*a\.mp4\.job .*: make room there"):
        job.hold(anchor)


class SlowPictures(tuple[np.ndarray, ...]):
    """Pictures of a part that is not written before `go`."""

    go: threading.Event

    def __iter__(self) -> Iterator[np.ndarray]:
        assert self.go.wait(30)
        return super().__iter__()


def slow(*pictures: np.ndarray) -> SlowPictures:
    made = SlowPictures(pictures)
    made.go = threading.Event()
    return made


def place(x: float) -> Anchor:
    return Anchor(pose=x * torch.eye(4)[None], camera=torch.eye(4)[None])


def test_a_part_is_written_while_the_next_one_is_made(tmp_path: Path) -> None:
    """`keep` comes back before the part is there; the state after it does not count before it is."""
    job, pictures = Job(tmp_path / "a.mp4", request="x"), slow(hills(0), hills(1))
    job.keep(0, pictures, place(1), fps=16)
    assert not job.part(0).exists()
    saving = threading.Thread(target=job.save)
    saving.start()
    saving.join(0.1)
    assert saving.is_alive()
    assert not job.state.exists()
    pictures.go.set()
    saving.join()
    assert len(decoded(job.part(0))) == 2
    found = Job(tmp_path / "a.mp4", request="x").resume(Anchor)
    assert found is not None
    assert found[0] == 1
    assert torch.equal(found[1].pose, place(1).pose)


def test_only_one_part_waits(tmp_path: Path) -> None:
    job, pictures = Job(tmp_path / "a.mp4", request="x"), slow(hills(0))
    job.keep(0, pictures, place(1), fps=16)
    keeping = threading.Thread(target=job.keep, args=(1, [hills(1)], place(2)), kwargs={"fps": 16})
    keeping.start()
    keeping.join(0.1)
    assert keeping.is_alive()
    pictures.go.set()
    keeping.join()
    job.finish(2)
    assert not job.folder.exists()
    assert len(decoded(tmp_path / "a.mp4")) == 2


def test_a_part_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """Said once; what was saved before stays, and what came after the lost part does not count."""
    job = Job(tmp_path / "a.mp4", request="x")
    job.keep(0, [hills(0)], place(1), fps=16)
    job.save()
    (job.folder / "part.tmp.mp4").mkdir()
    job.keep(1, [hills(1)], place(2), fps=16)
    with pytest.raises(ValueError, match=r"cannot write into .*a\.mp4\.job .*: make room there"):
        job.keep(2, [hills(2)], place(3), fps=16)
    job.save()
    again = Job(tmp_path / "a.mp4", request="x")
    found = again.resume(Anchor)
    assert found is not None
    assert found[0] == 1
    (job.folder / "part.tmp.mp4").rmdir()
    for i in (1, 2):
        again.keep(i, [hills(i)], place(1 + i), fps=16)
    (tmp_path / "a.mp4.part").mkdir()
    with pytest.raises(ValueError, match=r"cannot write .*a\.mp4 .*: make room there"):
        again.finish(3)
    (tmp_path / "a.mp4.part").rmdir()
    again.finish(3)
    assert len(decoded(tmp_path / "a.mp4")) == 3


@pytest.mark.window
def test_the_preview_shows_and_may_be_closed(here: Path) -> None:
    with screen("1280x800") as environment:
        environment["PYTHONPATH"] = str(Path(__file__).parent.parent)
        command = [sys.executable, "-m", "explorer.app", *LINE.split(), "--frames", "400", "--preview"]
        render = subprocess.Popen(
            [*command, "--out", "p.mp4"], env=environment, stderr=subprocess.PIPE, text=True
        )
        centre = (0, 0, 0)
        deadline = time.monotonic() + 60
        while max(centre) < 10 and time.monotonic() < deadline:
            assert render.poll() is None, render.communicate()[1]
            shot = subprocess.run(
                ["import", "-window", "root", "png:-"], env=environment, capture_output=True, timeout=10
            ).stdout
            centre = cv2.imdecode(np.frombuffer(shot, np.uint8), cv2.IMREAD_COLOR)[400, 640]
            time.sleep(0.1)
        subprocess.run(["xdotool", "key", "Escape"], env=environment, check=True)
        render.send_signal(signal.SIGINT)
        _, err = render.communicate(timeout=60)
    assert render.returncode == 130, err
    assert "Traceback" not in err
