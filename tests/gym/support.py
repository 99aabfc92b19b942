"""A small analysis whose signal an agent shapes."""

from __future__ import annotations

from tests.building import normfactor, normsys, sample, shapesys, staterror, workspace


def spec_of(yields=(2.0, 5.0)):
    return workspace(
        {
            "SR": [
                sample("signal", list(yields), normfactor("mu")),
                sample("bkg", [20.0, 15.0], staterror("mc", [1.0, 0.8]), normsys("xs", 0.9, 1.12)),
            ],
            "CR": [
                sample("signal", [1.0], normfactor("mu")),
                sample("bkg", [50.0], shapesys("free", [5.0]), normsys("xs", 0.95, 1.05)),
            ],
        },
        {"SR": [24.0, 22.0], "CR": [52.0]},
    )
