"""The words that stand before every prompt of SANA-WM's stage 1. They belong to the release and are read from it."""

from __future__ import annotations

import hashlib
from pathlib import Path

SHA256 = "62b9ab89eebb0ac5ee4d264bf96bf19d2b81f504bc3852500efeaf5a34d638b1"
LARGEST = 1 << 20  # bytes of a config


def instruction(release: Path | None = None) -> str:
    """`text_encoder.chi_prompt` of a release folder's `config.yaml`, else as diffusers carries it. Raises ValueError.

    Of diffusers' copy the hash is checked; what a release says of itself counts as it is.
    """
    config = None if release is None else release / "config.yaml"
    if config is not None and config.is_file():
        lines = _configured(config)
        if lines is not None:
            return "\n".join(lines)
    text = "\n".join(_carried())
    if hashlib.sha256(text.encode()).hexdigest() != SHA256:
        raise ValueError(
            "the instruction in this version of diffusers is not that of the release: pip install 'diffusers==0.42.1'"
        )
    return text


def _configured(path: Path) -> list[str] | None:
    """None where the config has no instruction."""
    try:
        import yaml
    except ImportError as error:
        raise ValueError(f"reading {path} needs pyyaml: pip install 'world-explorer[sana]'") from error
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError(f"{path} is too large for a config")
        record = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({error}): fetch the release again") from error
    section = record.get("text_encoder") if isinstance(record, dict) else None
    lines = section.get("chi_prompt") if isinstance(section, dict) else None
    if lines is not None and (not isinstance(lines, list) or not all(isinstance(x, str) for x in lines)):
        raise ValueError(f"{path} has a text_encoder.chi_prompt that is not a list of lines")
    return lines


def _carried() -> list[str]:
    try:
        from diffusers.pipelines.sana_wm.pipeline_sana_wm import DEFAULT_CHI_PROMPT
    except ImportError as error:
        raise ValueError(
            "the instruction of stage 1 comes from the release's config.yaml or from diffusers 0.42: "
            "pip install 'world-explorer[sana]'"
        ) from error
    return list(DEFAULT_CHI_PROMPT)
