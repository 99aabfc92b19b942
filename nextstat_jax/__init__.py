"""Binned likelihoods in the HistFactory form as pure, differentiable JAX functions."""

from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import interpret as interpret
from ._base._errors import DatasetError as DatasetError
from ._base._errors import FitError as FitError
from ._base._errors import MissingExtraError as MissingExtraError
from ._base._errors import ModelError as ModelError
from ._base._errors import NextstatError as NextstatError
from ._base._errors import WorkspaceError as WorkspaceError
from ._batches._batched import batched as batched
from ._batches._run import Run as Run
from ._inference._asymptotics import Discovery as Discovery
from ._inference._asymptotics import HypoTest as HypoTest
from ._inference._asymptotics import discovery as discovery
from ._inference._fit import FitResult as FitResult
from ._inference._fit import fit as fit
from ._inference._goodness import Correlations as Correlations
from ._inference._goodness import GoodnessOfFit as GoodnessOfFit
from ._inference._goodness import Pulls as Pulls
from ._inference._goodness import correlations as correlations
from ._inference._goodness import goodness_of_fit as goodness_of_fit
from ._inference._goodness import pulls as pulls
from ._inference._intervals import Contour as Contour
from ._inference._intervals import Interval as Interval
from ._inference._intervals import contour as contour
from ._inference._intervals import interval as interval
from ._inference._limits import UpperLimit as UpperLimit
from ._inference._limits import upper_limit as upper_limit
from ._inference._profile import ProfileResult as ProfileResult
from ._inference._profile import TestStatistic as TestStatistic
from ._inference._profile import profile as profile
from ._inference._profile import q0 as q0
from ._inference._profile import q0_test as q0_test
from ._inference._profile import qmu as qmu
from ._inference._profile import qmu_test as qmu_test
from ._inference._profile import qmu_tilde as qmu_tilde
from ._inference._profile import qmu_tilde_test as qmu_tilde_test
from ._inference._profile import z0 as z0
from ._inference._profile import zmu as zmu
from ._inference._profile import zmu_plain as zmu_plain
from ._inference._profile import zmu_tilde as zmu_tilde
from ._inference._result import Result as Result
from ._inference._scan import ScanResult as ScanResult
from ._inference._scan import profile_scan as profile_scan
from ._inference._stack import ModelStack as ModelStack
from ._inference._stack import stack_models as stack_models
from ._inference._stack import stack_patches as stack_patches
from ._inference._yields import Yields as Yields
from ._inference._yields import yields as yields
from ._model._base import Model as Model
from ._model._from_arrays import from_arrays as from_arrays
from ._model._model import HistFactoryModel as HistFactoryModel
from ._model._model import Parameter as Parameter
from ._model._model import asimov_data as asimov_data
from ._model._reading import from_pyhf as from_pyhf
from ._model._reparametrized import Reparametrized as Reparametrized
from ._model._reparametrized import reparametrize as reparametrize
from ._model._saved import load_model as load_model
from ._model._saved import save_model as save_model
from ._toys._distributions import ToyDistributions as ToyDistributions
from ._toys._hypotest import hypotest as hypotest
from ._toys._results import ToyFits as ToyFits
from ._toys._toys import fit_toys as fit_toys
from ._toys._toys import sample_toys as sample_toys
from ._toys._toys import stream_toys as stream_toys
from ._training._sessions import Session as Session
from ._training._sessions import SignificanceLoss as SignificanceLoss
from ._training._sessions import create_profiled_session as create_profiled_session
from ._training._sessions import create_session as create_session
from ._training._sessions import nll_loss as nll_loss
from ._training._sessions import profiled_q0_loss as profiled_q0_loss
from ._training._sessions import profiled_qmu_loss as profiled_qmu_loss
from ._training._sessions import profiled_qmu_plain_loss as profiled_qmu_plain_loss
from ._training._sessions import profiled_qmu_tilde_loss as profiled_qmu_tilde_loss
from ._training._sessions import profiled_z0_loss as profiled_z0_loss
from ._training._sessions import profiled_zmu_loss as profiled_zmu_loss
from ._training._sessions import profiled_zmu_plain_loss as profiled_zmu_plain_loss
from ._training._sessions import profiled_zmu_tilde_loss as profiled_zmu_tilde_loss
from ._training._sessions import warm_start as warm_start
from ._training._shaping import bandwidth_schedule as bandwidth_schedule
from ._training._shaping import guard_empty_bins as guard_empty_bins
from ._training._shaping import monotone_edges as monotone_edges
from ._training._shaping import raw_edges as raw_edges
from ._training._soft_histogram import SoftHistogram as SoftHistogram
from ._training._soft_histogram import soft_histogram as soft_histogram
from ._workspace._example import example_workspace as example_workspace
from ._workspace._patches import PatchSet as PatchSet

__version__ = "0.1.0"

if _TYPE_CHECKING:
    from . import gym as gym
    from . import mlops as mlops
    from . import plot as plot

# The doors to other people's tools open on use, so that the import needs none of them, and waits for none.
_DOORS = ("distill", "gym", "mlops", "plot", "torch")


def __getattr__(name: str) -> _Any:
    if name in _DOORS:
        from importlib import import_module

        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_DOORS})
