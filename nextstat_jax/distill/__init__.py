"""From a likelihood to a data set, and from there to a fast surrogate whose error is known.

``generate_dataset`` samples a model's likelihood, ``train_mlp_surrogate`` learns it, ``validate`` says how well,
``predict_nll`` serves it. A surrogate is a model: ``fit``, ``profile_scan`` and all other questions take it. It is for
exploring: confirm what you find with the model that it was made from.
"""

from .._inference._fit import fit as fit
from .._inference._scan import profile_scan as profile_scan
from .._model._reparametrized import Reparametrized as Reparametrized
from .._model._reparametrized import reparametrize as reparametrize
from ._dataset import SurrogateDataset as SurrogateDataset
from ._dataset import generate_dataset as generate_dataset
from ._dataset import to_numpy as to_numpy
from ._dataset import to_torch_dataset as to_torch_dataset
from ._files import from_npz as from_npz
from ._files import from_parquet as from_parquet
from ._files import to_npz as to_npz
from ._files import to_parquet as to_parquet
from ._posterior import Chains as Chains
from ._posterior import LogDensity as LogDensity
from ._posterior import log_density as log_density
from ._posterior import sample as sample
from ._predict import predict_nll as predict_nll
from ._serve import export as export
from ._serve import load as load
from ._serve import save as save
from ._serve import to_onnx as to_onnx
from ._serve import to_torch as to_torch
from ._stream import generate_parquet as generate_parquet
from ._stream import iterate_parquet as iterate_parquet
from ._surrogate import Surrogate as Surrogate
from ._train import train_mlp_surrogate as train_mlp_surrogate
from ._validate import Validation as Validation
from ._validate import validate as validate
