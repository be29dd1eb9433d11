"""gdn_scan.safetensors: the isolated frame-wise scan, its states and its gradients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from kernels.gdn_scan import gdn_scan
from tests.checks.check import Check, by_head, relative

FILE = "gdn_scan.safetensors"
TOLERANCE = 1e-6


def scan(folder: Path) -> Iterator[Check]:
    t = load_file(folder / FILE)
    for case in json.loads((folder / "gdn_scan.json").read_text())["cases"]:
        name = f"case{case['case']}"
        x = {k.removeprefix(f"{name}."): v for k, v in t.items() if k.startswith(f"{name}.")}
        if x:
            for quantity, out in results(x, dtype=torch.float32).items():
                if quantity in x:
                    yield relative(FILE, f"{name} {quantity}", out, x[quantity], TOLERANCE)


def results(x: dict[str, Tensor], *, dtype: torch.dtype) -> dict[str, Tensor]:
    """Everything the fixture holds, under its names and in its layouts."""
    frames = x["decay"].shape[-1]
    leaf = {n: x[n].to(dtype).requires_grad_() for n in ("q", "k", "v", "q_rot", "k_rot", "beta", "decay")}
    q, k, v, q_rot, k_rot = (by_head(leaf[n], frames) for n in ("q", "k", "v", "q_rot", "k_rot"))
    beta = leaf["beta"] if leaf["beta"].ndim == 4 else leaf["beta"][..., None].expand(*k.shape[:-1])
    gates = dict(beta=beta, decay=leaf["decay"])
    zero = torch.zeros(*q.shape[:2], q.shape[-1], q.shape[-1], dtype=dtype)
    S = x["state0_kv"].mT.to(dtype) if "state0_kv" in x else zero
    z = x["state0_z"].to(dtype) if "state0_z" in x else zero[..., :1]
    one = torch.ones_like(v[..., :1])
    main = dict(q=q_rot, k=k_rot, v=v, S=S, **gates)
    below = dict(q=q, k=k, v=one, S=z, **gates)

    num_fwd, S_end = gdn_scan(**main)
    den_fwd, z_end = gdn_scan(**below)
    num, _ = gdn_scan(**main, chunks=(frames,))
    den, _ = gdn_scan(**below, chunks=(frames,))
    cam_S = x["state0_kv"].to(dtype) if "state0_kv" in x else zero
    cam, _ = gdn_scan(**{**main, "S": zero}, chunks=(frames,))
    cam_fwd, cam_end = gdn_scan(**{**main, "S": cam_S})

    def flat(o: Tensor) -> Tensor:
        return o.flatten(2, 3).mT

    out = {
        "num_fwd": flat(num_fwd),
        "den_fwd": flat(den_fwd),
        "out_bidirectional": flat(num / (den + 1e-8)),
        "out_forward_only": flat(num_fwd / (den_fwd + 1e-8)),
        "state_kv_final": S_end.mT,
        "state_z_final": z_end,
        "cam.out_bidirectional": flat(cam),
        "cam.out_forward": flat(cam_fwd),
        "cam.state_final": cam_end,
    }
    if frames > 1:  # elsewhere what follows is zero
        out |= {"num_rev": flat(num - num_fwd), "den_rev": flat(den - den_fwd)}
    grad_num, grad_den = x["grad_num"].to(dtype), x["grad_den"].to(dtype)
    loss = (grad_num * flat(num)).sum() + (grad_den * flat(den)).sum()
    camera_loss = (grad_num * flat(cam)).sum()
    for prefix, total in (("grad.", loss), ("cam.grad.", camera_loss)):
        grads = torch.autograd.grad(total, list(leaf.values()), retain_graph=True, allow_unused=True)
        out |= {prefix + n: g for n, g in zip(leaf, grads, strict=True) if g is not None}
    for n in ("q", "k"):  # the camera form names its inputs without `_rot`
        out[f"cam.grad.{n}"] = out.pop(f"cam.grad.{n}_rot")
    return out
