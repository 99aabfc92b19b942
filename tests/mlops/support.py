"""A small search, of one channel with three bins."""

from __future__ import annotations

from tests.building import normfactor, normsys, one_channel, sample, staterror


def spec_of(signal, background, uncertainties, observed):
    samples = [
        sample("signal", signal, normfactor("mu")),
        sample("bkg", background, staterror("mc", uncertainties), normsys("xs", 0.9, 1.1)),
    ]
    return one_channel(samples, observed)
