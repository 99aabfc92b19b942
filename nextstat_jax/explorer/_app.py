"""The page, as an application of marimo: controls at the side, the picture in the middle.

Cells are functions; marimo runs one again when something that it takes has changed. Run it by
``python -m nextstat_jax.explorer``, or by ``marimo run`` with ``-- --surrogate file.npz``.
"""

import marimo

__generated_with = "0.25.2"
app = marimo.App(width="medium", app_title="Likelihood explorer")

with app.setup:
    from typing import Any

    import marimo as mo

    from nextstat_jax.explorer import _figure as figures
    from nextstat_jax.explorer import _landscape as landscapes


@app.cell
def _open() -> tuple[Any, ...]:
    _path = mo.cli_args().get("surrogate")
    land = landscapes.open_landscape(None if _path is None else str(_path))
    mo.md(f"## Likelihood explorer\n\n{figures.caution(land)}")
    return (land,)


@app.cell
def _choices(land: Any) -> tuple[Any, ...]:
    _first, _second = landscapes.default_axes(land)
    _many: dict[str, Any] = {"searchable": len(land.names) > landscapes.MOST_SLIDERS, "full_width": True}
    x_axis = mo.ui.dropdown(land.names, value=_first, label="x", **_many)
    y_axis = mo.ui.dropdown(land.names, value=_second, label="y", **_many)
    follow = mo.ui.checkbox(label="The others follow the axes (linear profile)")
    reset = mo.ui.button(value=0, on_click=lambda count: count + 1, label="Reset to the best fit")
    return follow, reset, x_axis, y_axis


@app.cell
def _shown(land: Any, x_axis: Any, y_axis: Any) -> tuple[Any, ...]:
    _names = landscapes.others(land, (x_axis.value, y_axis.value))
    _first = _names[: landscapes.MOST_SLIDERS]
    shown = mo.ui.multiselect(_names, value=_first, label="Parameters with a slider", full_width=True)
    has_more = len(_names) > len(_first)
    return has_more, shown


@app.cell
def _sliders(land: Any, reset: Any, shown: Any) -> tuple[Any, ...]:
    def _slider(name: str) -> Any:
        values, best = landscapes.steps(land, name)
        return mo.ui.slider(steps=values, value=best, show_value=True, full_width=True)

    # Made anew, and thereby at the best fit, whenever the button was pressed.
    _ = reset.value
    sliders = mo.ui.dictionary({name: _slider(name) for name in shown.value})
    rows = [
        mo.vstack([mo.Html(figures.slider_text(land, name)), one], gap=0.1) for name, one in sliders.elements.items()
    ]
    return rows, sliders


@app.cell
def _controls(follow: Any, has_more: Any, reset: Any, rows: Any, shown: Any, x_axis: Any, y_axis: Any) -> None:
    _choice = [shown] if has_more else []
    mo.sidebar(mo.vstack([x_axis, y_axis, follow, reset, *_choice, *rows], gap=0.8), width="23rem")


@app.cell
def _picture(follow: Any, land: Any, sliders: Any, x_axis: Any, y_axis: Any) -> None:
    _axes = (x_axis.value, y_axis.value)
    mo.stop(_axes[0] == _axes[1], mo.callout("Choose two different parameters for x and y.", kind="warn"))
    _plane = landscapes.plane(land, _axes, sliders.value, follow.value)
    # As large as leaves the lines below it in view.
    _style = {"max-height": "max(22rem, calc(100vh - 20rem))", "object-fit": "contain", "object-position": "left"}
    _url = figures.data_url(figures.draw(_plane))
    _image = mo.image(_url, alt=f"Contours of {_axes[0]} and {_axes[1]}", width="100%", style=_style)
    mo.vstack([_image, mo.md(figures.summary(_plane)), mo.md(figures.reading(follow.value))])


if __name__ == "__main__":
    app.run()
