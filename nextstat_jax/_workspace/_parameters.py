"""Which modifiers share a parameter, and how a measurement may configure it: the types' rules, put together."""

from __future__ import annotations

from collections.abc import Iterable

from .._modifiers import REGISTRY, Declared, ParameterConfig, Use


def declared_parameters(uses: Iterable[Use]) -> dict[str, Declared]:
    """Collect the parameters of a workspace, and refuse names that modifiers cannot share.

    Args:
        uses: All modifiers, their channels sorted by name: pyhf takes the number of components of a shapefactor from
            the first channel in that order.

    Returns:
        The parameters by name.

    Raises:
        WorkspaceError: Modifiers of incompatible types, or of incompatible numbers of bins, share a name.
    """
    table: dict[str, Declared] = {}
    by_name: dict[str, list[Use]] = {}
    for use in uses:
        kind = REGISTRY[use.kind]
        known = table.get(use.name)
        if known is None:
            table[use.name] = Declared(use.kind, kind.size([use]), use.path)
        else:
            kind.require_shareable(use, known)
        by_name.setdefault(use.name, []).append(use)
    return {name: known._replace(size=REGISTRY[known.kind].size(by_name[name])) for name, known in table.items()}


def checked_configurations(
    configs: Iterable[ParameterConfig], declared: dict[str, Declared]
) -> tuple[ParameterConfig, ...]:
    """The configurations of a measurement, checked against the modifiers and completed where a type can do that.

    Raises:
        WorkspaceError: For a configuration that does not fit its parameter, or one that is missing. The path starts at
            the measurement.
    """
    completed = []
    for index, config in enumerate(configs):
        path = f"$.config.parameters[{index}]"
        if (parameter := declared.get(config.name)) is not None:
            kind = REGISTRY[parameter.kind]
            config = kind.complete(config, path)
            kind.check_configuration(config, parameter, path)
        completed.append(config)
    named = {config.name for config in completed}
    for name, parameter in declared.items():
        if name not in named:
            REGISTRY[parameter.kind].require_configured(parameter)
    return tuple(completed)
