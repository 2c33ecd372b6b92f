"""What this machine is: the part of a cache key and of a report that says where a number came from."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from importlib import metadata

_PACKAGES = ("torch", "onnxruntime", "onnxscript", "openvino", "executorch", "numpy")


@functools.cache
def processor() -> str:
    """The processor's own name, or the platform's word for it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def features() -> str:
    """Digest of the processor's instruction-set flags."""
    flags = ""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        pass
    return hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:12]


@functools.cache
def memory_bytes() -> int:
    """Physical memory in bytes; 0 where the platform does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 0


@functools.cache
def versions() -> dict[str, str]:
    """Installed versions of the packages that results depend on."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def load() -> float:
    """Runnable processes per processor over the last minute; 0.0 where the platform does not say."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return 0.0
