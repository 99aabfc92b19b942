"""What a result was measured on."""

import importlib.metadata
import os
import platform
from pathlib import Path


def describe() -> dict:
    """Return the machine in a form that can be published: no host name, no paths."""
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "load_average": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
    }


def cpu_model() -> str:
    """Return the processor's own name for itself, or what Python knows of it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        fields = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        named = {key.strip(): value.strip() for key, value in fields.items()}
        model = named.get("model name") or platform.processor() or "unknown"
        family = f"family {named['cpu family']} model {named['model']}" if "cpu family" in named else ""
        return f"{model} ({family})" if family else model
    return platform.processor() or "unknown"


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of `packages`, with Python's own."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
