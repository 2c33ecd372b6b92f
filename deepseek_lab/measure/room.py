"""How much more memory can be had."""

from __future__ import annotations

from pathlib import Path


def free_bytes() -> int | None:
    """What the system calls available, or what is left below the limits of the process's control groups.

    None where the system does not say.
    """
    found = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except OSError:
        return None
    found += [room for room in map(_room, _groups()) if room is not None]
    return min(found) if found else None


def _groups() -> list[tuple[Path, Path]]:
    """Files with the limit and the usage of each control group that this process is in."""
    root = Path("/sys/fs/cgroup")
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        base, limit, usage = (
            (root, "memory.max", "memory.current")
            if not kinds
            else (root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        if kinds and "memory" not in kinds.split(","):
            continue
        place = base / path.lstrip("/")
        for folder in (place, *place.parents):
            if folder == base.parent:
                break
            found.append((folder / limit, folder / usage))
    return found


def _room(files: tuple[Path, Path]) -> int | None:
    try:
        limit, usage = (one.read_text(encoding="ascii").strip() for one in files)
        return max(int(limit) - int(usage), 0) if limit != "max" else None
    except (OSError, ValueError):
        return None
