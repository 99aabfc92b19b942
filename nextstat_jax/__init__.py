"""Binned likelihoods in the HistFactory form as pure, differentiable JAX functions."""

from ._batch import batched as batched
from ._errors import DatasetError as DatasetError
from ._errors import FitError as FitError
from ._errors import MissingExtraError as MissingExtraError
from ._errors import ModelError as ModelError
from ._errors import NextstatError as NextstatError
from ._errors import WorkspaceError as WorkspaceError
from ._fit import FitResult as FitResult
from ._fit import fit as fit
from ._model import HistFactoryModel as HistFactoryModel
from ._model import Parameter as Parameter
from ._model import asimov_data as asimov_data
from ._model import from_pyhf as from_pyhf
from ._patches import PatchSet as PatchSet
from ._profile import ProfileResult as ProfileResult
from ._profile import TestStatistic as TestStatistic
from ._profile import profile as profile
from ._profile import q0 as q0
from ._profile import q0_test as q0_test
from ._profile import qmu as qmu
from ._profile import qmu_test as qmu_test
from ._profile import qmu_tilde as qmu_tilde
from ._profile import qmu_tilde_test as qmu_tilde_test
from ._profile import z0 as z0
from ._profile import zmu as zmu
from ._sessions import Session as Session
from ._sessions import SignificanceLoss as SignificanceLoss
from ._sessions import create_profiled_session as create_profiled_session
from ._sessions import create_session as create_session
from ._sessions import nll_loss as nll_loss
from ._sessions import profiled_q0_loss as profiled_q0_loss
from ._sessions import profiled_qmu_loss as profiled_qmu_loss
from ._sessions import profiled_z0_loss as profiled_z0_loss
from ._sessions import profiled_zmu_loss as profiled_zmu_loss
from ._soft_histogram import SoftHistogram as SoftHistogram
from ._soft_histogram import soft_histogram as soft_histogram

__version__ = "0.1.0"
