"""`explorer bench`: what it counts and what it prints, at tiny size; the same commands run at true size on a GPU."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from engine.bench import kernels as bench_kernels
from engine.bench.case import VIEWS, Case, Shape
from engine.bench.cases import CASES
from engine.bench.ceilings import ceilings
from engine.bench.clock import silent
from engine.bench.goals import GOALS
from engine.bench.report import Ceilings, Moment, Report, Row, Work
from engine.bench.work import codec_flops, flops, refiner_flops, stage1_flops, vae_flops
from engine.codec import Codec
from engine.ltx2 import LTX2_REFINER, LTX2_VAE
from engine.values import tensors
from explorer.app import main
from explorer.bench.compare import alternate
from explorer.bench.part import Codec as CodecPart
from explorer.bench.part import Pipeline, Refiner, Sana, Stage1
from explorer.bench.plot import over_time
from explorer.bench.table import print_comparison, print_report
from tests.tiny import CODEC, tiny_assets
from tests.tiny_sana import SETUP, SIZES

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def report(**changes: object) -> Report:
    """Four calls of one thing whose floor is a quarter of a second."""
    row = Row(name="stage 1", seconds=(0.5, 0.4, 0.6, 0.9), frames=24, work=Work(flops=2e12, bytes=1e9))
    given = dict(part="stage1", device="a GPU", torch="2", ceilings=Ceilings(flops=8e12, bytes=1e10))
    return Report(**{**given, "rows": (row,), "peak": 5 * 10**9, **changes})  # type: ignore[arg-type]


def test_median_p90_and_floor() -> None:
    (row,) = report().record()["rows"]
    assert row["median_ms"] == pytest.approx(550)
    assert row["p90_ms"] == pytest.approx(900)
    assert row["floor_ms"] == pytest.approx(250)
    assert row["floor_fraction"] == pytest.approx(0.25 / 0.55)
    slow = Ceilings(flops=8e12, bytes=1e9)  # then copying takes longer than computing
    assert slow.floor(Work(flops=2e12, bytes=1e9)) == pytest.approx(1.0)


@pytest.mark.parametrize("comparable", [False, True])
def test_goals_stand_only_beside_figures_of_their_gpu(
    comparable: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    print_report(report(comparable=comparable))
    printed = capsys.readouterr().out
    assert "43.6" in printed  # frames/s
    assert "2.73" in printed  # × real time
    assert ("1,171" in printed, "≤ 200" in printed) == (comparable, comparable)


def test_a_product_is_counted_as_two_operations_for_every_triple() -> None:
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert flops(lambda: a @ b) == 2 * 3 * 5 * 7


def test_work_without_data_is_that_of_real_modules() -> None:
    codec = Codec(CODEC)
    frames, latent = torch.zeros(1, 8, 3, 160, 256), torch.zeros(1, 32, 10, 16)
    real = flops(lambda: codec.encode(frames)), flops(lambda: codec.decode(latent, latent))
    assert codec_flops(CODEC) == real


def test_work_of_the_release() -> None:
    """Teraflops of a chunk at 704×1280: 27 of the decoder; of the refiner two per weight and token, and attention.

    The pass that commits ends with the keys and values of the last layer.
    """
    assert vae_flops(LTX2_VAE, (22, 40), frames=3) == pytest.approx(27e12, rel=0.01)
    small = replace(LTX2_REFINER, depth=2)
    tokens, keys, D = 3 * 880, 14 * 880, 4096
    block = 2 * tokens * (4 + 2 + 8) * D * D  # self-attention, queries and output of the words', feed-forward
    attention = 4 * tokens * (keys + 64) * D
    last = 2 * tokens * 2 * D * D
    edges = 2 * tokens * 128 * D * (4 + 3)
    want = (3 * 2 + 1) * (block + attention) + last + edges
    assert refiner_flops(small, (22, 40), words=64) == pytest.approx(want, rel=0.01)


def test_work_of_stage_1_grows_with_passes() -> None:
    once = stage1_flops(replace(SIZES.world, levels=(1.0,)), SIZES.grid)
    more = stage1_flops(replace(SIZES.world, levels=(1.0, 0.8, 0.6)), SIZES.grid)
    passes = (more - once) / 2
    assert 0 < once - 2 * passes < passes  # what is prepared once per chunk


def test_ceilings_are_rates() -> None:
    found = ceilings(CPU)
    assert 1e9 < found.flops < 1e15
    assert 1e8 < found.bytes < 1e14


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        (Stage1, ["stage 1", "60 s clip, stage 1"]),
        (CodecPart, ["codec"]),
        (Refiner, ["refiner"]),
        (
            Pipeline,
            [
                *("stage 1 + codec", "  denoise", "  decode"),
                *("stage 1 + codec + refiner", "  denoise", "  refine", "  decode"),
            ],
        ),
    ],
)
def test_parts_of_sana_wm(
    kind: type[Sana],
    rows: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    out = tmp_path / "found.json"
    assert kind(setup=SETUP, device="cpu", chunks=3, json=out).run() == 0
    found = json.loads(out.read_text())
    assert [row["name"] for row in found["rows"]] == rows
    assert all(len(row["seconds"]) == 3 for row in found["rows"])
    assert all(0 < row["floor_fraction"] < 1 for row in found["rows"] if row["work"])
    assert found["facts"]["finite"]
    assert not found["comparable"]
    printed = capsys.readouterr().out
    assert all(row.strip() in printed for row in rows)
    assert "goal" not in printed


def test_all_goals_are_of_rows_that_are_measured() -> None:
    named = {"stage 1", "60 s clip, stage 1", "codec", "refiner", "pocket", "stage 1 + codec"}
    assert set(GOALS) == named | {"stage 1 + codec + refiner", "GDN main branch"}
    assert "GDN main branch" in {case.name for case in CASES}


def test_a_long_flight_is_drawn(tmp_path: Path) -> None:
    picture = tmp_path / "flat.svg"
    Pipeline(setup=SETUP, device="cpu", minutes=0.1, plot=picture, refiner="off").run()
    tree = ElementTree.parse(picture)
    words = "".join(tree.getroot().itertext())
    assert "minutes of flight" in words
    assert "chunk: " in words


def test_what_grows_climbs_in_the_plot() -> None:
    moments = [Moment(at=1.5 * i, seconds=0.2, memory=10**9 + 10**7 * i) for i in range(400)]
    lines = [
        e.get("d", "") for e in ElementTree.fromstring(over_time(moments)).iter() if e.get("fill") == "none"
    ]
    time, memory = ([float(p.split()[1]) for p in line[1:].split("L")] for line in lines)
    assert len(set(time)) == 1
    assert memory == sorted(memory, reverse=True)  # upwards: y counts from the top
    assert memory[0] > memory[-1]


def tiny(case: Case) -> Case:
    """The same kernel with little to do."""
    if case.shape == VIEWS:
        return replace(case, shape=replace(VIEWS, frames=2, grid=(16, 24)))
    return replace(case, shape=Shape(clips=1, frames=2, grid=(2, 3), heads=1, width=16))


def test_kernels() -> None:
    pytest.importorskip("triton", reason="needs Triton (its interpreter where no GPU is)")
    found = bench_kernels.kernels(DEVICE, count=1, tick=silent, cases=tuple(tiny(case) for case in CASES))
    assert [row.name for row in found.rows][::2] == [case.name for case in CASES]
    assert all(row.work is not None and row.work.bytes > 0 for row in found.rows)
    assert not found.comparable


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_kernel_and_its_plain_form_are_given_the_same_work(case: Case) -> None:
    pytest.importorskip("triton", reason="needs Triton (its interpreter where no GPU is)")
    inputs = case.inputs(tiny(case).shape, DEVICE, torch.float32)
    with torch.no_grad():
        ours, plain = (tensors((form(**inputs),)) for form in (case.kernel, case.twin))
    assert len(ours) == len(plain)
    for a, b in zip(ours, plain, strict=True):
        assert float((a.double() - b.double()).norm() / b.double().norm().clamp_min(1)) < 1e-3


def test_pocket_and_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_EXPLORER_ASSETS", str(tiny_assets(tmp_path / "assets", scenes=1)))
    out, picture = tmp_path / "pocket.json", tmp_path / "pocket.svg"
    words = f"bench pocket --chunks 4 --device cpu --threads 1 --json {out} --plot {picture}"
    assert main(words.split()) == 0
    found = json.loads(out.read_text())
    assert [row["name"] for row in found["rows"]] == ["pocket", "  denoise", "  decode"]
    assert found["facts"]["finite"]
    assert found["facts"]["frames"] == 1 + 20 * 8
    assert len(found["moments"]) == 20
    assert picture.read_text().startswith("<svg")
    assert "frames/s" in capsys.readouterr().out


def test_bench_alone_says_what_can_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    printed = capsys.readouterr().out
    for name in ("latency", "stage1", "codec", "refiner", "pipeline", "lowbit", "kernels", "pocket"):
        assert f"explorer bench {name}" in printed


# --- another commit -------------------------------------------------------------------------------------------------

PROGRAM = """
import json, pathlib, sys
out, log = sys.argv[sys.argv.index("--json") + 1], pathlib.Path(sys.argv[sys.argv.index("--log") + 1])
with log.open("a") as f:
    f.write("{commit}\\n")
rows = [{{"name": "chunk", "median_ms": {ms}}}, {{"name": "{commit}", "median_ms": 1.0}}]
pathlib.Path(out).write_text(json.dumps({{"rows": rows}}))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository of three commits: one that measures nothing, one that takes 30 ms, and one that takes 10."""
    root = tmp_path / "checkout"
    (root / "explorer").mkdir(parents=True)
    (root / "explorer" / "__init__.py").touch()
    git(root, "init", "-q", "-b", "main")
    program = root / "explorer" / "app.py"
    refusal = "import sys; sys.exit('explorer: there is nothing to measure')\n"
    for tag, text in {
        "silent": refusal,
        "slow": PROGRAM.format(commit="slow", ms=30.0),
        "fast": PROGRAM.format(commit="fast", ms=10.0),
    }.items():
        program.write_text(text)
        git(root, "add", ".")
        git(root, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", tag)
        git(root, "tag", tag)
    return root


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", root, *words], check=True, capture_output=True, text=True).stdout


def test_two_commits_are_measured_in_turns(
    checkout: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    found = alternate("chunk", ["--log", str(log)], commit="slow", rounds=2, tick=silent, root=checkout)
    assert log.read_text().split() == ["fast", "slow"] * 2
    assert found.rows == (("chunk", 0.01, 0.03), ("fast", 0.001, None), ("slow", None, 0.001))
    assert found.commit == git(checkout, "rev-parse", "slow")[:9]
    assert len(git(checkout, "worktree", "list").splitlines()) == 1
    print_comparison(found)
    assert "3.000" in capsys.readouterr().out


def test_a_commit_that_cannot_measure_says_so(checkout: Path, tmp_path: Path) -> None:
    flags = ["--log", str(tmp_path / "log")]
    with pytest.raises(ValueError, match=r"commit \w{9} cannot measure chunk: there is nothing to measure$"):
        alternate("chunk", flags, commit="silent", rounds=1, tick=silent, root=checkout)
    with pytest.raises(ValueError, match="no such commit"):
        alternate("chunk", flags, commit="--all", rounds=1, tick=silent, root=checkout)
    with pytest.raises(ValueError, match="is none: clone the repository"):
        alternate("chunk", flags, commit="slow", rounds=1, tick=silent, root=checkout / "explorer")
    assert len(git(checkout, "worktree", "list").splitlines()) == 1
