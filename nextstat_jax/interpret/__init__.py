"""What a result hangs on: impacts and rankings of nuisance parameters, and the sources of a significance."""

from .._inference._impacts import GroupedImpacts as GroupedImpacts
from .._inference._impacts import Impacts as Impacts
from .._inference._impacts import grouped_impacts as grouped_impacts
from .._inference._impacts import impacts as impacts
from .._inference._importance import Importance as Importance
from .._inference._importance import importance as importance
from ._ranking import plot_rank_impact as plot_rank_impact
from ._ranking import rank_impact as rank_impact
from ._ranking import rank_impact_df as rank_impact_df
