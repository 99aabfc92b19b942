"""pyhf with the interpolation codes that this package uses by default."""

import json

import numpy as np

CODES = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}


def build(text: str):
    """Return pyhf's model and its data."""
    import pyhf

    workspace = pyhf.Workspace(json.loads(text))
    model = workspace.model(modifier_settings=CODES)
    return model, workspace.data(model)


def n_bins(model) -> int:
    """Return the number of main bins."""
    return int(sum(model.config.channel_nbins.values()))


def report_fit(result) -> dict:
    """Describe what `pyhf.infer.mle.fit` returned with its fitted value and result object."""
    _, twice_nll, details = result
    message = getattr(details, "message", "")
    return {
        "objective": float(np.asarray(twice_nll)) / 2.0,
        "converged": bool(details.success),
        "status": str(message),
        "n_iter": int(getattr(details, "nit", 0) or getattr(details, "nfev", 0) or 0),
    }
