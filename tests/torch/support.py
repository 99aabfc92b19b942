"""A small analysis with every kind of uncertainty, of which the signal is trained."""

from __future__ import annotations

from tests.building import histosys, normfactor, normsys, sample, shapesys, staterror, workspace

SIGNAL = (1.2, 3.0, 6.5)  # CR before SR


def spec_of(signal=SIGNAL, observed=(52.0, 24.0, 22.0)):
    signal, observed = [float(x) for x in signal], list(observed)
    return workspace(
        {
            "SR": [
                sample("signal", signal[1:], normfactor("mu"), staterror("mc", [0.3, 0.5])),
                sample("bkg", [20.0, 15.0], staterror("mc", [1.0, 0.8]), histosys("jes", [18.0, 14.0], [22.5, 16.5])),
            ],
            "CR": [
                sample("signal", signal[:1], normfactor("mu"), shapesys("free", [0.4])),
                sample("bkg", [50.0], normsys("xs", 0.9, 1.12)),
            ],
        },
        {"SR": observed[1:], "CR": observed[:1]},
    )
