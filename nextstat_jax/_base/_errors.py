"""The exceptions of the package.

Functions that run on the host check their input at the door and raise one of these. Numerical trouble inside a
compiled function never raises: it is reported in the ``status`` of the result.
"""

from __future__ import annotations

# Characters of a message, and of its beginning where it is longer.
_LONGEST = 2000
_BEGINNING = 1600


class NextstatError(ValueError):
    """Root of every exception that this package raises on purpose.

    What it quotes may be as long as a file; its message is not: of more than 2,000 characters the middle is left out.
    """

    def __str__(self) -> str:
        """The message."""
        text = super().__str__()
        return text if len(text) <= _LONGEST else f"{text[:_BEGINNING]} [...] {text[_BEGINNING - _LONGEST :]}"


class WorkspaceError(NextstatError):
    """A workspace, a patch or a patch set that cannot be read.

    Attributes:
        path: Where, as a JSON path such as ``$.channels[0].samples[1].data``.
        found: What stands there.
        expected: What should stand there.
        names: The channel, sample and modifier in words, or an empty string.
    """

    def __init__(self, path: str, found: str, expected: str, names: str = "") -> None:
        self.path = path
        self.found = found
        self.expected = expected
        self.names = names
        where = f"{path} ({names})" if names else path
        super().__init__(f"{where}: found {found}, expected {expected}")

    def __reduce__(self) -> tuple[type, tuple[str, str, str, str]]:
        # The default would call __init__ with the one formatted message and fail in process pools.
        return type(self), (self.path, self.found, self.expected, self.names)


class ModelError(NextstatError):
    """A model that cannot answer what is asked of it: an unknown name, a wrong shape, a missing POI."""


class FitError(NextstatError):
    """Arguments of a fit or of a test that cannot be used."""


class DatasetError(NextstatError):
    """A data set or a file of one that cannot be read or written."""


class MissingExtraError(NextstatError, ImportError):
    """An optional dependency is not installed.

    Args:
        package: The package that could not be imported.
        extra: The extra of this distribution that installs it.
    """

    def __init__(self, package: str, extra: str) -> None:
        self.package = package
        self.extra = extra
        super().__init__(f"{package} is not installed: pip install 'nextstat-jax[{extra}]'")

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.package, self.extra)
