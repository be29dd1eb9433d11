"""camera.safetensors, camera.json, actions.safetensors, actions.json."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from engine.camera import Intrinsics
from engine.conditioning import condition_clip, from_rows, prepare
from engine.config import FPS, SANA_WM
from engine.picture import fit, fit_intrinsics
from engine.rope import rotary_tables
from engine.ucpe import RayFrames, into_memory, into_query, out_of_ray, ray_frames
from explorer.dialect import Motion, parse, roll_out
from tests.checks.check import PART, Check, absolute, exact, relative

CAMERA, ACTIONS, DIALECTS = "camera.safetensors", "actions.safetensors", "dialects.safetensors"
SMALL, FULL = (4, 6), (22, 40)


def camera(folder: Path) -> Iterator[Check]:
    t, facts = load_file(folder / CAMERA), json.loads((folder / "camera.json").read_text())
    yield from small(t)
    for width in (24, 112):
        if f"small.D{width}.rope_cos" in t:
            yield from ray_features(t, width)
        if f"small.D{width}.prep.q" in t:
            yield from prepared_features(t, width)
    if "full.poses" in t:
        yield from full(t)
    yield from crops(facts)


def small(t: dict[str, Tensor]) -> Iterator[Check]:
    poses, intrinsics = t["small.poses"][None], t["small.intrinsics"][None]
    rows, plucker = prepare(poses, intrinsics, grid=SMALL, config=SANA_WM)
    yield absolute(CAMERA, "small camera rows", rows[0], t["small.raymap"])
    yield relative(CAMERA, "small Plücker map", plucker[0], t["small.chunk_plucker"])
    cond = from_rows(t["small.raymap"][None], plucker, grid=SMALL, config=SANA_WM)
    yield relative(CAMERA, "small P per cell", cond.P.unflatten(2, SMALL), t["small.raymats"])
    yield relative(CAMERA, "small P", cond.P.flatten(1, 2), t["small.P"])
    yield relative(CAMERA, "small Pᵀ", cond.P.mT.flatten(1, 2), t["small.P_T"])
    yield relative(CAMERA, "small P⁻¹", cond.P_inv.flatten(1, 2), t["small.P_inv"])
    clip = condition_clip(poses, intrinsics, grid=SMALL, config=SANA_WM)
    yield relative(CAMERA, "small P from poses", clip.P.flatten(1, 2), t["small.P"])
    yield relative(CAMERA, "small Plücker from poses", clip.plucker[0], t["small.chunk_plucker"])


def rays_of(t: dict[str, Tensor], width: int, *, frame: int) -> RayFrames:
    _, rotary = rotary_tables(
        frame=frame, frames=5, grid=SMALL, head_dim=width, device=torch.device("cpu"), dtype=torch.float32
    )
    P, P_inv = (t[f"small.{name}"].unflatten(1, (5, -1)) for name in ("P", "P_inv"))
    return ray_frames(P=P, P_inv=P_inv, reanchor=None, rotary=rotary)


def ray_features(t: dict[str, Tensor], width: int) -> Iterator[Check]:
    """Rope tables of frames 3…7 and the three transforms of the camera branch."""
    x = {k.split(".", 2)[2]: v for k, v in t.items() if k.startswith(f"small.D{width}.")}
    main, cam = rotary_tables(
        frame=3, frames=5, grid=SMALL, head_dim=width, device=torch.device("cpu"), dtype=torch.float32
    )
    for name, table in (("rope", main), ("cam_rope", cam)):
        yield relative(CAMERA, f"D{width} {name} cos", table.cos.flatten(0, 1), x[f"{name}_cos"])
        yield relative(CAMERA, f"D{width} {name} sin", table.sin.flatten(0, 1), x[f"{name}_sin"])
    rays = rays_of(t, width, frame=3)
    for name, apply in (("q", into_query), ("kv", into_memory), ("o", out_of_ray)):
        if f"{name}_applied" in x:
            out = apply(x[name].unflatten(2, (5, -1)), rays)
            yield relative(CAMERA, f"D{width} {name} transformed", out.flatten(2, 3), x[f"{name}_applied"])


def prepared_features(t: dict[str, Tensor], width: int) -> Iterator[Check]:
    """Camera q, k, v of a GDN block from raw projections: norm, ReLU, key scale, transform."""
    x = {k.split(".prep.")[1]: v for k, v in t.items() if k.startswith(f"small.D{width}.prep.")}
    rays, scale = rays_of(t, width, frame=3), (width * SMALL[0] * SMALL[1]) ** -0.5
    before = {
        "q": F.rms_norm(x["q_raw"].flatten(2), (2 * width,), x["q_norm_w"], 1e-5).relu(),
        "k": F.rms_norm(x["k_raw"].flatten(2), (2 * width,), x["k_norm_w"], 1e-5).relu() * scale,
        "v": x["v_raw"].flatten(2),
    }
    after = {}
    for name, tokens in before.items():
        heads = tokens.unflatten(2, (2, width)).transpose(1, 2).unflatten(2, (5, -1))  # [B, H, F, N, K]
        after[name] = (into_query if name == "q" else into_memory)(heads, rays).flatten(2, 3)
        yield relative(CAMERA, f"D{width} prepared {name}", after[name].mT, x[name])
    raw = before["k"].unflatten(2, (2, width)).transpose(1, 2).norm(dim=-1).clamp_min(1e-6)
    inflation = (after["k"].norm(dim=-1).clamp_min(1e-6) / raw) ** 2
    yield relative(CAMERA, f"D{width} key inflation", inflation, x["inflation_sq"])


def full(t: dict[str, Tensor]) -> Iterator[Check]:
    poses, intrinsics = t["full.poses"][None], t["full.intrinsics_cropped"][None]
    rows, plucker = prepare(poses, intrinsics, grid=FULL, config=SANA_WM)
    yield absolute(CAMERA, "704x1280 camera rows", rows[0], t["full.raymap"])
    yield relative(CAMERA, "704x1280 Plücker map", plucker[0], t["full.chunk_plucker"])
    P = from_rows(rows, plucker, grid=FULL, config=SANA_WM).P.unflatten(2, FULL)
    yield relative(CAMERA, "704x1280 P, frames 0 and 4", P[:, [0, 4]], t["full.raymats_frame0_and_4"])
    source = t["full.intrinsics_source"][0].double().tolist()
    k = Intrinsics(**dict(zip(("fx", "fy", "cx", "cy"), source, strict=True)), width=1691, height=930)
    row = torch.from_numpy(fit_intrinsics(k, width=1280, height=704).row)
    yield relative(CAMERA, "cropped intrinsics", row, t["full.intrinsics_cropped"][0], PART)


def crops(facts: dict[str, list[dict[str, list[int]]]]) -> Iterator[Check]:
    for case in facts["crop_cases"]:
        want = (*case["resized"], *case["offset_left_top"])
        got = fit(*case["src"], to=tuple(case["cropped"]))
        yield exact("camera.json", f"crop of {case['src'][0]}x{case['src'][1]}", got == want)


def actions(folder: Path) -> Iterator[Check]:
    t, facts = load_file(folder / ACTIONS), json.loads((folder / "actions.json").read_text())
    for case in facts["cases"]:
        motion = Motion(
            speed=FPS * case.get("translation_speed", 0.025),
            turn=FPS * case.get("rotation_speed_deg", 0.6),
            pitch_limit=case.get("pitch_limit_deg", 60.0),
            smooth=case.get("smooth", True),
        )
        poses = torch.from_numpy(roll_out(case["action"], motion=motion)).float()
        yield absolute(ACTIONS, f"{case['tensor']} {case['action']}", poses, t[case["tensor"]])
    for case in facts["invalid_strings"]:
        verdict = "taken" if case["accepted"] else "refused"
        yield exact(
            "actions.json", f"'{case['action']}' is {verdict}", accepted(case["action"]) == case["accepted"]
        )


def accepted(text: str) -> bool:
    try:
        return bool(parse(text))
    except ValueError:
        return False


def dialects(folder: Path) -> Iterator[Check]:
    """Action strings rolled out by the programs that speak the other dialects, at their own defaults."""
    t, facts = load_file(folder / DIALECTS), json.loads((folder / "dialects.json").read_text())
    for case in facts["cases"]:
        poses = torch.from_numpy(roll_out(case["action"], dialect=case["dialect"])).float()
        yield absolute(DIALECTS, f"{case['dialect']} {case['action']}", poses, t[case["tensor"]])
