"""Pictures of results, as papers show them. Needs matplotlib: ``pip install 'nextstat-jax[plot]'``.

Every function draws one result, its first argument, in the axes it is given (``ax=``, or ``axes=`` for several),
or in those of a new figure, and returns the axes; the figure is ``ax.figure``. Nothing is shown or written, and no
global setting of matplotlib is changed. Several threads may draw; matplotlib's parser of formulas serves one at a time,
so let threads render their figures (``savefig``, ``canvas.draw``) while they hold ``lock``, as the functions here do
where they lay out text. ``style`` has the colors and the looks, for pictures of your own.
"""

from . import style as style
from ._distributions import distributions as distributions
from ._importance import importance as importance
from ._limits import brazil as brazil
from ._limits import exclusion as exclusion
from ._limits import limits as limits
from ._limits import toys as toys
from ._parameters import correlation as correlation
from ._parameters import pulls as pulls
from ._parameters import ranking as ranking
from ._scans import contour as contour
from ._scans import scan as scan
from ._style import lock as lock
