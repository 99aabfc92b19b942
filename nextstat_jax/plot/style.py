"""How the pictures look, for pictures of your own beside them: colors, figures, axes as in papers, room for legends.

Nothing changes matplotlib's global settings: each function gives one artist its style.
"""

from ._style import BLUE as BLUE
from ._style import DARK_BLUE as DARK_BLUE
from ._style import DARK_ORANGE as DARK_ORANGE
from ._style import GRAY as GRAY
from ._style import GREEN as GREEN
from ._style import ORANGE as ORANGE
from ._style import PALETTE as PALETTE
from ._style import RED as RED
from ._style import SMALL as SMALL
from ._style import YELLOW as YELLOW
from ._style import dress as dress
from ._style import label_of as label_of
from ._style import legend_with_room as legend_with_room
from ._style import new_figure as new_figure
from ._style import require_matplotlib as require_matplotlib
from ._style import width_of as width_of
