"""The audit of a data set, and its page."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from datamodules.audit.leaks import PROBES, SHORTCUTS, Leakage, measure
from datamodules.audit.plots import draw_files, draw_leaks, draw_spectra
from datamodules.audit.remedies import Auditable, Remedy, candidates, try_remedy
from datamodules.audit.tables import distributions
from datamodules.audit.view import PixelTraces, View

__all__ = ["AuditReport", "audit"]

TRAINED, AFTER = "as trained", "after the fix"

_FINDINGS = {
    "format": "The file formats of real and fake differ: re-encode both, or select images of one format.",
    "quality": "JPEG qualities differ.",
    "chroma": "Chroma sampling differs.",
    "tables": "Quantisation tables of other makers differ.",
    "size": "Image sizes differ: select a window of sizes, or bring all to a common size.",
    "colour": "One class holds more grey images, which no re-encoding hides: remove them, or convert both classes.",
    "codec": "The pixels show different JPEG histories, whatever the files are now.",
    "spectrum": "The power spectra differ. Either one class was resampled or filtered, or this is the generator's own "
    "trace; the audit cannot tell which. Ask how the files were made.",
    "exif": "EXIF data are in one class rather than the other; pixels do not show it, programs that read files do.",
}
_FROM_FORMAT = ("quality", "chroma", "tables")  # of no news where the format differs


@dataclass(frozen=True)
class AuditReport:
    """Figures, causes and cures.

    Attributes:
        source: what was audited.
        views: leakage by view: ``files``, as they lie on the disk; ``as trained``, the training images as the config
            selects and aligns them, cut square; ``after the fix``.
        remedies: settings that were tried.
        files: one line per label and generator.
        traces: labels and traces of the images looked at, by view, for pictures.
        rows: manifest of the files.
    """

    source: str
    views: dict[str, Leakage]
    remedies: list[Remedy]
    files: pd.DataFrame
    traces: dict[str, tuple[NDArray[np.int64], PixelTraces]]
    rows: pd.DataFrame

    @property
    def fix(self) -> Remedy | None:
        """The settings to use, if any were needed and helped."""
        return next((remedy for remedy in self.remedies if remedy.problem is None), None)

    @property
    def verdict(self) -> list[str]:
        """One sentence per finding in the data as a detector would train on them."""
        leakage = self.views[TRAINED]
        found = list(self._notes())
        if leakage.problem:
            return [*found, f"Too few training images to say anything: {leakage.problem}."]
        leaks = {name: leak for name, leak in leakage.leaks.items() if name in _FINDINGS}
        if leaks["format"].leaks:
            leaks = {name: leak for name, leak in leaks.items() if name not in _FROM_FORMAT}
        found += [
            f"{text} (AUROC {leaks[name]})" for name, text in _FINDINGS.items() if name in leaks and leaks[name].leaks
        ]
        found += [
            f"Perhaps: {text[0].lower()}{text[1:]} (AUROC {leaks[name]}, too few images or groups to be sure)"
            for name, text in _FINDINGS.items()
            if name in leaks and leaks[name].suspect
        ]
        hidden = self.views["files"].leaks.get("size")
        if hidden and hidden.leaks and not leaks["size"].leaks:
            found.append(
                f"Sizes or aspects of the files differ (AUROC {hidden}). Square crops at one scale hide it; whole or "
                "squeezed images would not."
            )
        if leakage.worst is None and not any(leakage.leaks[name].suspect for name in SHORTCUTS):
            found.insert(0, "No shortcut found in format, compression, size, colour or JPEG history, as trained.")
        elif self.fix is None and leakage.worst is not None:
            found.append("None of the settings tried takes it out.")
        return found

    def _notes(self) -> Iterator[str]:
        """What no probe measures."""
        labels = self.rows.groupby("sha256")["label"].nunique()
        if (labels > 1).any():
            yield f"{int((labels > 1).sum())} files occur both as real and as fake: one of the labels is wrong."
        if (self.rows["format"] == "WEBP").any():
            yield "There are WebP files; their compression histories are not examined."

    def leak_table(self) -> pd.DataFrame:
        """AUROC with interval, one row per probe, one column per view."""
        columns = {
            name: {probe: str(leakage.leaks[probe]) for probe in PROBES if probe in leakage.leaks}
            for name, leakage in self.views.items()
        }
        return pd.DataFrame(columns, index=list(PROBES), dtype=object).fillna("")

    def remedy_table(self) -> pd.DataFrame:
        """Settings tried, images left and what came of it."""
        lines = []
        for remedy in self.remedies:
            left = remedy.counts.iloc[-1] if remedy.counts is not None else None
            lines.append(
                {
                    "settings": _flow(remedy.arguments),
                    "real": "" if left is None else int(left["real"]),
                    "fake": "" if left is None else int(left["fake"]),
                    "result": remedy.problem or "no shortcut left",
                }
            )
        return pd.DataFrame(lines, columns=["settings", "real", "fake", "result"])

    def text(self) -> str:
        """The report for a terminal."""
        parts = [f"Audit of {self.source}", self.files.to_string(index=False)]
        parts.append("How well the label can be told (AUROC, 95 % interval; 0.5 or less is chance):")
        parts.append(self.leak_table().to_string())
        parts += [f"- {sentence}" for sentence in self.verdict]
        if self.remedies:
            parts.append("Settings tried, with the training images that they leave:")
            parts += [
                f"  {line['settings']}: {line['real']} real, {line['fake']} fake; {line['result']}"
                for line in self.remedy_table().to_dict("records")
            ]
        return "\n".join(parts)

    def fragment(self, class_path: str) -> str | None:
        """Config fragment with the settings to use."""
        if self.fix is None:
            return None
        leakage = self.fix.leakage
        figures = ", ".join(f"{name} {leakage.leaks[name]}" for name in SHORTCUTS) if leakage else ""
        comment = f"# Takes the shortcuts out of {self.source}.\n# AUROC left: {figures}.\n"
        content = {"data": {"class_path": class_path, "init_args": self.fix.all_arguments}}
        return comment + yaml.safe_dump(content, sort_keys=False)

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers and text, for JSON."""
        return {
            "source": self.source,
            "verdict": self.verdict,
            "views": {name: leakage.as_dict() for name, leakage in self.views.items()},
            "fix": self.fix.arguments if self.fix else None,
            "remedies": [
                {
                    "settings": remedy.arguments,
                    "counts": None if remedy.counts is None else remedy.counts.to_dict("records"),
                    "leakage": None if remedy.leakage is None else remedy.leakage.as_dict(),
                    "problem": remedy.problem,
                }
                for remedy in self.remedies
            ],
            "files": self.files.to_dict("records"),
        }

    def page(self, fragment: str | None) -> str:
        """Self-contained HTML page."""
        sections = [f"<h1>Audit of {html.escape(self.source)}</h1>"]
        sections.append(f"<ul class='verdict'>{''.join(f'<li>{html.escape(item)}</li>' for item in self.verdict)}</ul>")
        sections.append("<h2>How well the label can be told without looking at the picture</h2>")
        table = self.leak_table()
        table.insert(0, "looks at", [PROBES[probe] for probe in table.index])
        sections += [
            table.to_html(border=0),
            draw_leaks(self.views) if any(v.leaks for v in self.views.values()) else "",
        ]
        sections.append(
            "<p>AUROC of small probes on images that they were not fitted on, in five folds that keep groups and "
            "duplicates together, with bootstrapped 95 % intervals. 0.5 is chance; less is chance too, an artefact of "
            "folds that share few images out evenly.</p>"
        )
        if fragment:
            sections += ["<h2>What takes it out</h2>", f"<pre>{html.escape(fragment)}</pre>"]
        if self.remedies:
            sections += ["<h2>What was tried</h2>", self.remedy_table().to_html(border=0, index=False)]
            if self.fix is not None and self.fix.counts is not None and len(self.fix.counts) > 1:
                sections += ["<p>Images left after each filter:</p>", self.fix.counts.to_html(border=0, index=False)]
        sections += ["<h2>The files</h2>", self.files.to_html(border=0, index=False)]
        if self.traces:
            sections.append(draw_files(self.rows, *self.traces["files"]))
            sections += ["<h2>Spectra</h2>", draw_spectra(self.traces)]
        return _PAGE.format(title=html.escape(self.source), body="\n".join(sections))

    def write(self, directory: Path, class_path: str) -> list[Path]:
        """Write ``audit.html``, ``audit.json`` and, where a fix was found, ``audit_fix.yaml``."""
        directory.mkdir(parents=True, exist_ok=True)
        fragment = self.fragment(class_path)
        texts = {"audit.html": self.page(fragment), "audit.json": json.dumps(self.as_dict(), indent=1, default=_number)}
        if fragment:
            texts["audit_fix.yaml"] = fragment
        for name, text in texts.items():
            (directory / name).write_text(text, encoding="utf-8")
        return [directory / name for name in texts]


def audit(data: Auditable, per_label: int = 300, seed: int = 0) -> AuditReport:
    """Measure what gives the labels of a data set away, and look for settings that take it out.

    Args:
        data: a datamodule whose ``prepare_data`` has run.
        per_label: most images of each label whose pixels are looked at.
        seed: seed of samples and folds.
    """
    files = data.files_view()
    views: dict[str, Leakage] = {}
    traces: dict[str, tuple[NDArray[np.int64], PixelTraces]] = {}

    def look(name: str, view: View) -> Leakage:
        leakage, positions, found = measure(view, per_label, seed)
        views[name] = leakage
        if found is not None:
            traces[name] = (view.rows["label"].to_numpy(np.int64)[positions], found)
        return leakage

    look("files", files)
    remedies: list[Remedy] = []
    if look(TRAINED, data.training_view(TRAINED)).worst is not None:
        rows = data.unselected_rows(data.split_manifest(), "train")
        for settings in candidates(rows, data.image_size, views["files"].leaks["size"].leaks):
            remedies.append(try_remedy(data, settings, per_label, seed))
            after = remedies[-1].leakage
            if remedies[-1].problem is None and after is not None:
                views[AFTER] = after
                break
    return AuditReport(data.source, views, remedies, distributions(files.rows), traces, files.rows)


def _flow(arguments: dict[str, Any]) -> str:
    """Settings on one line."""
    return yaml.safe_dump(arguments, default_flow_style=True, sort_keys=False, width=10**6).strip()[1:-1]


def _number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else str(value)


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Audit of {title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
h1 {{ font-size: 1.5rem; overflow-wrap: anywhere; }} h2 {{ font-size: 1.15rem; margin-top: 2rem; }}
table {{ border-collapse: collapse; font-size: 0.85rem; }}
th, td {{ text-align: left; padding: 0.25rem 0.8rem 0.25rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }}
thead th {{ border-bottom: 2px solid #888; white-space: nowrap; }}
pre {{ background: #f4f4f4; padding: 0.8rem; overflow-x: auto; }}
.verdict {{ background: #fff6e5; border-left: 4px solid #e69f00; padding: 0.6rem 0.6rem 0.6rem 2rem; }}
svg {{ max-width: 100%; height: auto; }}
</style></head><body>
{body}
</body></html>
"""
