"""A small analysis with every kind of uncertainty, of which the signal is trained."""

from __future__ import annotations

from tests.building import histosys, normfactor, normsys, sample, shapesys, staterror, workspace


def spec_of(signal=((2.0, 5.0), (1.0,)), observed=((24.0, 22.0), (52.0,))):
    return workspace(
        {
            "SR": [
                sample("signal", list(signal[0]), normfactor("mu"), staterror("mc", [0.3, 0.5])),
                sample(
                    "bkg",
                    [20.0, 15.0],
                    staterror("mc", [1.0, 0.8]),
                    histosys("jes", [18.0, 14.0], [22.5, 16.5]),
                ),
            ],
            "CR": [
                sample("signal", list(signal[1]), normfactor("mu")),
                sample("bkg", [50.0], shapesys("free", [5.0]), normsys("xs", 0.9, 1.12)),
            ],
        },
        {"SR": list(observed[0]), "CR": list(observed[1])},
    )
