"""Distributions that exist on disk only as far as the kernel looks: metadata, entry points, and modules to import."""

from __future__ import annotations

from pathlib import Path


def install(
    place: Path,
    name: str,
    version: str = "1.0",
    entry_points: dict[str, dict[str, str]] | None = None,
    modules: dict[str, str] | None = None,
) -> Path:
    """Lay a distribution into `place` as an installer would.

    Args:
        entry_points: for each group the entries, name to `module:attribute`.
        modules: for each top-level module its source.
    """
    metadata = place / f"{name.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nName: not me\n")
    lines: list[str] = []
    for group, entries in (entry_points or {}).items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()), ""]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    for module, source in (modules or {}).items():
        (place / f"{module}.py").write_text(source)
    return metadata
