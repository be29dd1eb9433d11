"""Cut the bundled fonts out of Inter and Noto Sans CJK: python tools/subset_fonts.py INTER_FOLDER NOTO_CJK.ttc

INTER_FOLDER holds Inter-Regular.otf and Inter-SemiBold.otf, NOTO_CJK.ttc is NotoSansCJK-Regular.ttc; on Debian they come
with fonts-inter and fonts-noto-cjk. Run it again when a text in explorer/kiosk/languages has changed. Needs fonttools.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTCollection, TTFont

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "explorer" / "fonts"
TEXTS = ROOT / "explorer" / "kiosk" / "languages"
# Latin with its extensions, Greek, Cyrillic, punctuation, currency, arrows, a few signs
INTER = [range(0x20, 0x180), range(0x370, 0x460), range(0x1E9E, 0x1F00), range(0x2010, 0x2040)]
INTER += [range(0x20A0, 0x20C0), range(0x2190, 0x219A), range(0x2212, 0x2213), range(0x2122, 0x2123)]
SIGNS = [range(0x3000, 0x3020), range(0xFF01, 0xFF5F)]
FACES = {  # language → file, place in the collection, signs beyond those of its texts
    "ja": ("NotoSansJP.otf", 0, [*SIGNS, range(0x3040, 0x3100)]),
    "zh": ("NotoSansSC.otf", 2, SIGNS),
}


def main(inter: Path, noto: Path) -> None:
    for weight in ("Regular", "SemiBold"):
        font = TTFont(inter / f"Inter-{weight}.otf")
        _even_digits(font)
        _write(font, {c for r in INTER for c in r}, TARGET / f"Inter-{weight}.otf")
    for language, (name, place, signs) in FACES.items():
        letters = {ord(c) for c in (TEXTS / f"{language}.toml").read_text(encoding="utf-8")}
        _write(TTCollection(noto).fonts[place], letters | {c for r in signs for c in r}, TARGET / name)


def _even_digits(font: TTFont) -> None:
    """Digits of one width as the usual ones, so that figures do not dance: the font's own feature tnum."""
    table = font["GSUB"].table
    wanted = {
        i
        for f in table.FeatureList.FeatureRecord
        if f.FeatureTag == "tnum"
        for i in f.Feature.LookupListIndex
    }
    swap: dict[str, str] = {}
    for i in wanted:
        for part in table.LookupList.Lookup[i].SubTable:
            swap |= getattr(getattr(part, "ExtSubTable", part), "mapping", {})
    for encoding in font["cmap"].tables:
        for code in range(ord("0"), ord("9") + 1):
            if code in getattr(encoding, "cmap", {}):
                encoding.cmap[code] = swap.get(encoding.cmap[code], encoding.cmap[code])


def _write(font: TTFont, codes: set[int], path: Path) -> None:
    options = Options(
        layout_features=["kern", "mark", "ccmp", "locl"], hinting=True, name_IDs=[0, 1, 2, 3, 4, 5, 6, 13, 14]
    )
    options.notdef_outline = True
    subsetter = Subsetter(options)
    subsetter.populate(unicodes=codes)
    subsetter.subset(font)
    font.save(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
