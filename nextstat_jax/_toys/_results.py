"""What is known of many pseudo-experiments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from .._base._errors import FitError
from .._inference._result import Result, result, static
from ._fits import ToyRecord

# What may be asked for beside the standard results.
QUANTITIES = ("mu_uncertainty", "uncertainties", "params", "data")


@result
class ToyFits(Result):
    """Fits to pseudo-experiments, one entry for each toy; no toy is left out, whatever became of its fit.

    Attributes:
        toy: Numbers of the toys, shape (n_toys,). Toy i is the same in every set with the same seed.
        mu_hat: Best-fit parameter of interest; the held value where only the conditional fit was made, None for a
            model without one.
        nll: NLL of the unconditional fit, or of the conditional one where only that was made.
        nll_fixed: NLL of the conditional fit, or None without ``test_stat``.
        statistic: Test statistic, or None without ``test_stat``. NaN where a fit failed without a finite NLL.
        status: Code of how the fits ended, the worst of the two; ``message`` is their sentence.
        n_iter: Iterations behind the fits of the toy, those of the quick method included.
        retried: Whether the quick method, which fits toys in batches, did not settle the toy, so that it was fitted as
            observed data are.
        mu_uncertainty: Uncertainty of ``mu_hat``, or None.
        uncertainties: Uncertainties of all parameters, shape (n_toys, n_params), or None.
        params: Best-fit parameters, shape (n_toys, n_params), or None.
        data: Data of the toys, shape (n_toys, n_data), or None.
        generated_at: Parameters that the toys were thrown from, shape (n_params,).
        mu_test: Tested value of the parameter of interest, or None.
        seed: Seed of the toys.
        test_stat: Name of the test statistic, or None.
        parameter_names: Names of the parameters.
        poi_index: Index of the parameter of interest, or None.
    """

    _single: ClassVar[tuple[str, int]] = ("toy", 1)

    toy: Int[Array, " toy"]
    mu_hat: Float[Array, " toy"] | None
    nll: Float[Array, " toy"]
    nll_fixed: Float[Array, " toy"] | None
    statistic: Float[Array, " toy"] | None
    status: Int[Array, " toy"]
    n_iter: Int[Array, " toy"]
    retried: Bool[Array, " toy"]
    mu_uncertainty: Float[Array, " toy"] | None
    uncertainties: Float[Array, "toy param"] | None
    params: Float[Array, "toy param"] | None
    data: Float[Array, "toy data"] | None
    generated_at: Float[Array, " param"]
    mu_test: Float[Array, ""] | None
    seed: int
    test_stat: str | None = static()
    parameter_names: tuple[str, ...] = static()
    poi_index: int | None = static()

    @property
    def n_toys(self) -> int:
        """Number of toys."""
        return self.toy.shape[0]

    @property
    def pull(self) -> Float[Array, "*batch"]:
        """``(mu_hat - generated value) / uncertainty`` of the parameter of interest, shape (n_toys,).

        Raises:
            FitError: If the uncertainties were not asked for.
        """
        if self.mu_hat is None or self.mu_uncertainty is None or self.poi_index is None:
            raise FitError("pulls need the uncertainty of mu-hat: make the toys with quantities=('mu_uncertainty',)")
        positive = self.mu_uncertainty > 0
        gap = self.mu_hat - self.generated_at[self.poi_index]
        return jnp.where(positive, gap / jnp.where(positive, self.mu_uncertainty, 1.0), jnp.nan)

    @staticmethod
    def join(parts: Sequence[ToyFits]) -> ToyFits:
        """Sets of the same kind as one, in the given order.

        Raises:
            FitError: If the sets differ in seed, generating point or test, or share toys.
        """
        parts = list(parts)
        if not parts:
            raise FitError("there is nothing to join: give at least one set of toys")
        first = parts[0]
        for other in parts[1:]:
            if jax.tree.structure(first) != jax.tree.structure(other):
                raise FitError("sets of toys of different models, tests or quantities cannot be joined")
            same = first.seed == other.seed and np.array_equal(first.generated_at, other.generated_at)
            if not same or (first.mu_test is not None and float(first.mu_test) != float(other.mu_test)):  # type: ignore[arg-type]
                raise FitError("the sets of toys differ in seed, generating point or tested value: analyze them apart")
        toys = np.concatenate([np.asarray(part.toy) for part in parts])
        if len(np.unique(toys)) < len(toys):
            raise FitError("two of the sets hold the same toys: make the second with first_toy after the first's last")
        columns = {name: [getattr(part, name) for part in parts] for name in ("toy", *ToyRecord._fields)}
        return replace(first, **{name: _joined(column) for name, column in columns.items() if column[0] is not None})

    def _per_toy(self) -> dict[str, Any]:
        names = ("toy", "mu_hat", "mu_uncertainty", "nll", "nll_fixed", "statistic", "n_iter", "retried")
        values = {name: getattr(self, name) for name in names}
        return {name: np.asarray(value) for name, value in values.items() if value is not None}

    def _columns(self) -> dict[str, Any]:
        columns = self._per_toy() | {"converged": np.asarray(self.converged)}
        if self.params is not None:
            columns |= dict(zip(self.parameter_names, np.asarray(self.params).T, strict=True))
        if self.uncertainties is not None:
            names = [f"{name} uncertainty" for name in self.parameter_names]
            columns |= dict(zip(names, np.asarray(self.uncertainties).T, strict=True))
        return columns

    def _facts(self) -> dict[str, Any]:
        settings = {
            "seed": self.seed,
            "test_stat": self.test_stat,
            "mu_test": self.mu_test,
            "generated_at": dict(zip(self.parameter_names, np.asarray(self.generated_at), strict=True)),
        }
        matrices = {name: getattr(self, name) for name in ("params", "uncertainties", "data")}
        return settings | self._per_toy() | {name: value for name, value in matrices.items() if value is not None}

    def _title(self) -> str:
        again = int(np.asarray(self.retried).sum())
        title = f"ToyFits: {self.n_toys} toys from number {int(self.toy[0])} with seed {self.seed}: {self.message}"
        return title + (f"; {again} by the full minimizer" if again else "")

    def _shown(self) -> dict[str, Any]:
        """Moments of what was found, over the toys that converged."""
        rows: list[tuple[str, Any]] = [("nll", self.nll)]
        if self.mu_hat is not None and self.poi_index is not None:
            name = self.parameter_names[self.poi_index]
            rows.append((f"{name}, generated at {float(self.generated_at[self.poi_index]):.6g}", self.mu_hat))
            if self.mu_uncertainty is not None:
                rows.append((f"pull of {name}", self.pull))
        if self.statistic is not None and self.mu_test is not None:
            rows.append((f"{self.test_stat} at {float(self.mu_test):.6g}", self.statistic))
        header = ("", "mean", "+-", "std", "16 %", "median", "84 %")
        moments = [_moments(name, values, np.asarray(self.converged)) for name, values in rows]
        return dict(zip(header, zip(*moments, strict=True), strict=True))


def _joined(column: list[Any]) -> Array:
    return jnp.asarray(np.concatenate([np.asarray(x) for x in column]))


def _moments(name: str, values: Any, ok: np.ndarray) -> tuple[Any, ...]:
    """A row of the summary: over the toys that converged."""
    x = np.asarray(values)[ok]
    x = x[np.isfinite(x)]
    if not x.size:
        return (name, *[float("nan")] * 6)
    width = x.std(ddof=1) if x.size > 1 else float("nan")
    return (name, x.mean(), width / np.sqrt(x.size), width, *np.quantile(x, [0.16, 0.5, 0.84]))
