"""NextStat, used through its documented Python interface only."""

import json

import numpy as np

from benchmarks.engines import Case, Opened
from benchmarks.engines.common import BATCH, points_near, signal_sample, throw

NEEDS = "nextstat"
VERSIONS = ("nextstat", "numpy")


def open_engine(text: str, seed: int) -> Opened:
    """Open a workspace with NextStat."""
    import nextstat

    model = nextstat.from_pyhf(text)
    point = [float(value) for value in model.suggested_init()]
    points = points_near(model.parameter_names(), np.asarray(point), BATCH, seed).tolist()

    def batch() -> float:
        total = 0.0
        for each in points:
            total += model.nll(each)
            model.grad_nll(each)
        return total

    cases = {
        "build": Case(lambda: nextstat.from_pyhf(text)),
        "compile": "compiled ahead of time",
        "nll": Case(lambda: model.nll(point), _objective),
        "gradient": Case(lambda: model.grad_nll(point)),
        "nll_gradient": Case(lambda: (model.nll(point), model.grad_nll(point)), lambda r: _objective(r[0])),
        "nll_gradient_jit": "same call as nll_gradient",
        "hessian": "has no Hessian",
        "fit": Case(lambda: nextstat.fit(model), _report_fit),
        "fit_minimum": Case(lambda: nextstat.MaximumLikelihoodEstimator().fit_minimum(model), _report_fit),
        "q0_gradient": _q0_gradient(nextstat, text, seed),
        "batch_vmap": Case(batch, _objective, units=BATCH),
        "batch_map": "has no batched call for likelihoods",
    }
    return Opened(model.n_params(), sum(len(c["y"]) for c in model.observed_main_by_channel()), cases)


def _q0_gradient(nextstat, text: str, seed: int) -> Case | str:
    """Differentiate q0 with respect to the signal of one channel: the most that one call of NextStat offers."""
    model = nextstat.from_pyhf(text)
    init = model.suggested_init()
    expected = {row["channel_name"]: row["total"] for row in model.expected_main_by_channel_sample(init)}
    observed = [
        n
        for row in model.observed_main_by_channel()
        for n in throw(row["channel_name"], expected[row["channel_name"]], seed)
    ]
    toy = model.with_observed_main([float(n) for n in observed])
    sample, yields = signal_sample(json.loads(text))
    estimator = nextstat.MaximumLikelihoodEstimator()
    channel, nominal = next(iter(yields.items()))

    def run():
        return estimator.q0_like_loss_and_grad_nominal(toy, channel=channel, sample=sample, nominal=nominal)

    try:
        run()
    except Exception as error:
        return f"refuses: {str(error).splitlines()[0][:160]}"
    return Case(run, lambda r: {"objective": float(r[0]), "note": f"signal of one channel of {len(yields)}"})


def _objective(value: float) -> dict:
    return {"objective": float(value)}


def _report_fit(result) -> dict:
    return {
        "objective": float(result.nll),
        "converged": bool(result.converged),
        "status": str(getattr(result, "termination_reason", "") or ""),
        "n_iter": int(result.n_iter),
        "note": "uncertainties, no covariance matrix" if getattr(result, "uncertainties", None) else "",
    }
