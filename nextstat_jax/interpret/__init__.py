"""What a fitted model says about its parameters: rankings, impacts and pulls; and what its significance hangs on."""

from .._inference._goodness import Pulls as Pulls
from .._inference._goodness import pulls as pulls
from .._inference._impacts import GroupedImpacts as GroupedImpacts
from .._inference._impacts import Impacts as Impacts
from .._inference._impacts import grouped_impacts as grouped_impacts
from .._inference._impacts import impacts as impacts
from .._inference._importance import Importance as Importance
from .._inference._importance import importance as importance
from ._ranking import SORT_KEYS as SORT_KEYS
from ._ranking import plot_rank_impact as plot_rank_impact
from ._ranking import rank_impact as rank_impact
from ._ranking import rank_impact_df as rank_impact_df
from ._ranking import ranking_of as ranking_of
