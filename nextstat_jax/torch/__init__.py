"""The losses of ``nextstat_jax`` in PyTorch, by DLPack: no copies, and gradients from JAX.

JAX and torch share a GPU: on import JAX is told not to take the memory in advance, unless
``XLA_PYTHON_CLIENT_PREALLOCATE`` or ``XLA_PYTHON_CLIENT_ALLOCATOR`` says otherwise, or JAX has already used the GPU.
"""

import os

from .._base._errors import MissingExtraError

try:
    import torch as _torch  # noqa: F401
except ImportError:
    raise MissingExtraError("torch", "torch") from None

if "XLA_PYTHON_CLIENT_ALLOCATOR" not in os.environ:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

from ._bridge import from_jax as from_jax
from ._evaluate import as_tensor as as_tensor
from ._histogram import MonotoneEdges as MonotoneEdges
from ._histogram import SoftHistogram as SoftHistogram
from ._histogram import guard_empty_bins as guard_empty_bins
from ._losses import SignificanceLoss as SignificanceLoss
from ._losses import batch_profiled_q0_loss as batch_profiled_q0_loss
from ._losses import batch_profiled_qmu_loss as batch_profiled_qmu_loss
from ._losses import batch_profiled_qmu_plain_loss as batch_profiled_qmu_plain_loss
from ._losses import batch_profiled_qmu_tilde_loss as batch_profiled_qmu_tilde_loss
from ._losses import create_profiled_session as create_profiled_session
from ._losses import create_session as create_session
from ._losses import nll_loss as nll_loss
from ._losses import profiled_q0_loss as profiled_q0_loss
from ._losses import profiled_qmu_loss as profiled_qmu_loss
from ._losses import profiled_qmu_plain_loss as profiled_qmu_plain_loss
from ._losses import profiled_qmu_tilde_loss as profiled_qmu_tilde_loss
from ._losses import profiled_z0_loss as profiled_z0_loss
from ._losses import profiled_zmu_loss as profiled_zmu_loss
from ._losses import profiled_zmu_plain_loss as profiled_zmu_plain_loss
from ._losses import profiled_zmu_tilde_loss as profiled_zmu_tilde_loss
from ._losses import signal_jacobian as signal_jacobian
from ._losses import signal_jacobian_numpy as signal_jacobian_numpy
