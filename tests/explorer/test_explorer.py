"""The page that explores a surrogate: its numbers, its picture, its messages, and the page itself in a browser."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import replace

import jax
import numpy as np
import pytest

import nextstat_jax as nextstat
from nextstat_jax import DatasetError
from nextstat_jax.distill import generate_dataset, save, to_npz, train_mlp_surrogate
from nextstat_jax.explorer import __main__ as command
from nextstat_jax.explorer import _figure as figures
from nextstat_jax.explorer import _landscape as landscapes
from tests import building as b

pytest.importorskip("marimo")
pytest.importorskip("matplotlib")

# Large counts, so that the likelihood is close to Gaussian; norm is strongly correlated with mu.
SPEC = b.one_channel(
    [
        b.sample("signal", [900.0, 600.0, 300.0], b.normfactor("mu")),
        b.sample(
            "background",
            [5000.0, 5200.0, 5100.0],
            b.normsys("norm", 0.98, 1.02),
            b.histosys("shape", [4900.0, 5200.0, 5200.0], [5100.0, 5200.0, 5000.0]),
            b.shapesys("stat", [40.0, 40.0, 40.0]),
        ),
    ],
    [5960.0, 5790.0, 5350.0],
)


@pytest.fixture(scope="module")
def model():
    return nextstat.from_pyhf(SPEC)


@pytest.fixture(scope="module")
def ds(model):
    return generate_dataset(model, 2000, method="gaussian", include_gradient=False, run=nextstat.Run(progress=False))


@pytest.fixture(scope="module")
def surrogate(ds):
    return train_mlp_surrogate(ds, hidden_layers=(16,), epochs=150, batch_size=64, lr=1e-2, progress=False)


@pytest.fixture(scope="module")
def land(surrogate):
    return landscapes.landscape(surrogate)


@pytest.fixture(scope="module")
def file(surrogate, tmp_path_factory):
    path = tmp_path_factory.mktemp("explorer") / "surrogate.npz"
    save(surrogate, path)
    return path


def at(land, **values):
    """The best fit with other values of some parameters."""
    point = np.array(land.best)
    for name, value in values.items():
        point[land.surrogate.parameter_names().index(name)] = value
    return point


def with_free(surrogate, count):
    """The surrogate with all parameters but the first few confined to their best fits."""
    (core,) = surrogate.members
    free = np.arange(surrogate.n_params) < count
    lower, upper = (np.where(free, end, core.origin) for end in (core.lower, core.upper))
    return replace(surrogate, members=(replace(core, lower=lower, upper=upper),))


def lines(figure):
    """Points of the lines in the picture, by level, in data coordinates."""
    from matplotlib.contour import ContourSet

    found = [one for one in figure.axes[0].get_children() if isinstance(one, ContourSet) and not one.filled]
    return {round(float(one.levels[0]), 3): np.concatenate([p.vertices for p in one.get_paths()]) for one in found}


def exact(model, surrogate, points):
    """NLL of the model above its minimum."""
    return np.asarray(jax.vmap(model.nll)(points)) - float(surrogate.members[0].reference.minimum_nll)


def test_values_are_those_of_the_surrogate(land, surrogate):
    plane = landscapes.plane(land, ("mu", "shape"))
    assert plane.delta.shape == plane.inside.shape == (landscapes.SIDE, landscapes.SIDE)
    for row, column in ((0, 0), (3, 80), (44, 45), (89, 5)):
        point = at(land, mu=plane.x[column], shape=plane.y[row])
        expected = float(surrogate.nll(point)) - float(surrogate.nll(land.best))
        # Networks compute in single precision, alone and in batches in another order.
        assert plane.delta[row, column] == pytest.approx(expected, abs=1e-4)
        assert plane.inside[row, column] == bool(surrogate.in_domain(point))
    assert plane.delta.min() == pytest.approx(0, abs=0.01)
    assert plane.seconds > 0


def test_the_minimum_is_that_of_the_model(land, model):
    fit = nextstat.fit(model)
    widths = np.asarray(fit.uncertainties)
    np.testing.assert_allclose((land.best - np.asarray(fit.params)) / widths, 0, atol=0.02)
    np.testing.assert_allclose(land.covariance, fit.covariance, atol=1e-9, rtol=1e-6)


def test_lines_of_a_slice_are_where_the_model_has_their_height(land, model, surrogate):
    drawn = lines(figures.draw(landscapes.plane(land, ("mu", "norm"))))
    assert set(drawn) == {1.148, 2.996}
    error = float(surrogate.history["validation_max"])
    assert error < 0.2
    for height, vertices in drawn.items():
        points = np.array([at(land, mu=x, norm=y) for x, y in vertices])
        # Straight lines between grid points add to the surrogate's error.
        np.testing.assert_allclose(exact(model, surrogate, points), height, atol=error + 0.01)


def test_lines_of_followed_planes_are_ellipses_of_the_covariance(land, model):
    drawn = lines(figures.draw(landscapes.plane(land, ("mu", "norm"), follow=True)))
    fit = nextstat.fit(model)
    places = [model.parameter_names().index(name) for name in ("mu", "norm")]
    inverse = np.linalg.inv(np.asarray(fit.covariance)[np.ix_(places, places)])
    for height, vertices in drawn.items():
        step = vertices - np.asarray(fit.params)[places]
        # Wilks: the profile of a Gaussian likelihood is half the squared distance. The likelihood has a small skew.
        np.testing.assert_allclose(0.5 * np.einsum("ni,ij,nj->n", step, inverse, step), height, rtol=0.06)
    held = lines(figures.draw(landscapes.plane(land, ("mu", "norm"))))
    assert np.ptp(held[1.148][:, 0]) < 0.9 * np.ptp(drawn[1.148][:, 0])


def test_sliders_move_the_slice(land, surrogate):
    axes = ("mu", "norm")
    first = landscapes.plane(land, axes)
    values, best = landscapes.steps(land, "shape")
    assert best in values and values[0] < best < values[-1]
    same = landscapes.plane(land, axes, {"shape": best})
    assert np.array_equal(same.delta, first.delta)
    moved = landscapes.plane(land, axes, {"shape": values[-5]})
    point = at(land, mu=moved.x[20], norm=moved.y[40], shape=values[-5])
    expected = float(surrogate.nll(point)) - float(surrogate.nll(land.best))
    assert moved.delta[40, 20] == pytest.approx(expected, abs=1e-4)
    assert moved.delta.min() > first.delta.min() + 0.5
    assert figures.data_url(figures.draw(moved)) != figures.data_url(figures.draw(first))
    assert figures.data_url(figures.draw(same)) == figures.data_url(figures.draw(first))


def test_choices(land, model):
    correlation = np.asarray(nextstat.fit(model).correlation)
    names = model.parameter_names()
    with_mu = np.abs(correlation[names.index("mu")])
    with_mu[names.index("mu")] = 0
    assert landscapes.default_axes(land) == ("mu", names[int(np.argmax(with_mu))])
    rest = landscapes.others(land, ("mu", "shape"))
    strength = np.maximum(*np.abs(correlation[[names.index("mu"), names.index("shape")]]))
    assert sorted(rest) == sorted(set(names) - {"mu", "shape"})
    assert np.all(np.diff([strength[names.index(name)] for name in rest]) <= 0)
    for name in names:
        lower, upper = land.box[names.index(name)]
        values, _ = landscapes.steps(land, name)
        assert len(values) == len(set(values)) and np.all(np.diff(values) > 0)
        # Rounded for reading, and clipped again where they are used.
        assert values[0] > lower - 0.1 * land.width(name) and values[-1] < upper + 0.1 * land.width(name)
    for axes, message in ((("mu", "mu"), "choose two different"), (("mu", "sigma"), "'sigma' is no free parameter")):
        with pytest.raises(DatasetError, match=message):
            landscapes.plane(land, axes)


def test_what_was_not_trained_is_hatched(land, surrogate):
    from matplotlib.collections import PolyCollection

    def hatched(figure):
        legend = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
        patches = [one for one in figure.axes[0].collections if isinstance(one, PolyCollection) and one.get_hatch()]
        return any(one.get_paths() for one in patches), "Not trained" in legend

    near = landscapes.plane(land, ("stat[0]", "shape"), follow=True)
    partly = landscapes.plane(land, ("mu", "norm"))
    values = {name: landscapes.steps(land, name)[0][-1] for name in landscapes.others(land, ("mu", "norm"))}
    far = landscapes.plane(land, ("mu", "norm"), values)
    for plane in (partly, far):
        assert np.array_equal(plane.inside.ravel(), np.asarray(surrogate.in_domain(plane.points)))
    assert near.inside.all() and 0.2 < partly.inside.mean() < 0.8 and not far.inside.any()
    for plane, expected in ((near, False), (partly, True), (far, True)):
        assert hatched(figures.draw(plane)) == (expected, expected)
    assert lines(figures.draw(far)) == {}
    assert "outside of the trained region" in figures.summary(far)


def test_what_the_page_says(land, surrogate):
    plane = landscapes.plane(land, ("mu", "norm"))
    assert "8,100 points in " in figures.summary(plane) and " ms" in figures.summary(plane)
    text = figures.caution(land)
    assert f"{float(surrogate.history['validation_rmse']):.2g} (RMSE)" in text
    assert "2,000 points" in text and "Confirm" in text and "\n" not in text
    assert f"± {land.width('norm'):.2f}" in figures.slider_text(land, "norm")


def run_main(capsys, *arguments):
    status = command.main(list(map(str, arguments)))
    return status, capsys.readouterr().err


@pytest.fixture
def no_server(monkeypatch):
    monkeypatch.setattr(command, "_serve", lambda *_: pytest.fail("a server was started"))


@pytest.mark.usefixtures("no_server")
def test_bad_files_are_one_line(file, ds, tmp_path, capsys):
    damaged, other = tmp_path / "damaged.npz", tmp_path / "other.npz"
    damaged.write_bytes(file.read_bytes()[:-30])
    to_npz(ds, other)
    cases = {
        tmp_path / "nowhere.npz": "there is no file",
        damaged: "is damaged",
        other: "has the format 'nextstat_jax.distill.dataset/1'",
    }
    for path, message in cases.items():
        status, said = run_main(capsys, path)
        assert status == 2
        assert said.startswith("error: ") and message in said and said.count("\n") == 1


@pytest.mark.usefixtures("no_server")
def test_one_free_parameter_has_no_contour(surrogate, tmp_path, capsys):
    save(with_free(surrogate, 1), tmp_path / "one.npz")
    status, said = run_main(capsys, tmp_path / "one.npz")
    assert status == 2 and "one.npz: the surrogate has 1 free parameter(s): a contour needs two" in said


@pytest.mark.usefixtures("no_server")
def test_a_port_in_use_is_one_line(file, capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        status, said = run_main(capsys, file, "--port", port)
    assert status == 2
    assert said.startswith(f"error: cannot serve at 127.0.0.1, port {port}") and said.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        command.main([str(file), "--port", "70000"])


@pytest.mark.usefixtures("no_server")
@pytest.mark.parametrize("package", ["marimo", "matplotlib"])
def test_a_missing_package_is_one_line(package, file, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    status, said = run_main(capsys, file)
    assert (status, said) == (2, f"error: {package} is not installed: pip install 'nextstat-jax[explorer]'\n")


def test_the_command_ends_with_2(tmp_path):
    line = [sys.executable, "-m", "nextstat_jax.explorer", str(tmp_path / "nowhere.npz"), "--no-browser"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: there is no file {tmp_path / 'nowhere.npz'}\n"


def test_all_cells_run_without_a_server(file, monkeypatch):
    from nextstat_jax.explorer._app import app

    monkeypatch.setattr(sys, "argv", ["app", "--surrogate", str(file)])
    outputs, definitions = app.run()
    land = definitions["land"]
    assert land is landscapes.open_landscape(str(file))
    assert set(definitions["sliders"].elements) == set(land.names) - set(landscapes.default_axes(land))
    page = "".join(output.text for output in outputs if output is not None)
    for text in ("data:image/png;base64,", "8,100 points in", "Confirm what you find", "best fit", "Reset"):
        assert text in page


def test_of_many_parameters_some_have_sliders(file, monkeypatch):
    from nextstat_jax.explorer._app import app

    monkeypatch.setattr(sys, "argv", ["app", "--surrogate", str(file)])
    monkeypatch.setattr(landscapes, "MOST_SLIDERS", 2)
    outputs, definitions = app.run()
    land = definitions["land"]
    expected = landscapes.others(land, landscapes.default_axes(land))
    assert definitions["shown"].value == list(definitions["sliders"].elements) == expected[:2]
    page = "".join(output.text for output in outputs if output is not None)
    assert all(name in page for name in ("Parameters with a slider", *expected))


def test_two_free_parameters_have_no_sliders(surrogate, tmp_path, monkeypatch):
    from nextstat_jax.explorer._app import app

    save(with_free(surrogate, 2), tmp_path / "two.npz")
    monkeypatch.setattr(sys, "argv", ["app", "--surrogate", str(tmp_path / "two.npz")])
    outputs, definitions = app.run()
    assert definitions["sliders"].value == {}
    assert "Contours of mu and shape" in "".join(output.text for output in outputs if output is not None)


@pytest.mark.slow
def test_without_a_file_the_example_is_trained(capsys, monkeypatch):
    served = []
    monkeypatch.setattr(command, "_serve", lambda *arguments: served.append(arguments) or 0)
    assert command.main(["--no-browser"]) == 0
    ((path, host, port, headless),) = served
    assert (path, host, headless) == (None, "127.0.0.1", True) and 2718 <= port < 2818
    assert "embedded example" in capsys.readouterr().out
    land = landscapes.open_landscape(None)
    assert landscapes.default_axes(land)[0] == "mu"
    model = nextstat.from_pyhf(nextstat.example_workspace())
    plane = landscapes.plane(land, ("mu", "mu_ttbar"), follow=True)
    near = plane.inside.ravel() & (plane.delta.ravel() < 4)
    errors = plane.delta.ravel()[near] - exact(model, land.surrogate, plane.points[near])
    assert np.sqrt(np.mean(errors**2)) < 0.2


# The page in a real browser.

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
PICTURE = "img[alt^='Contours of']"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def served(path, folder):
    """The address of a server of its own process, which is gone afterwards."""
    port = free_port()
    line = [sys.executable, "-m", "nextstat_jax.explorer", str(path), "--no-browser", "--port", str(port)]
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_STATE_HOME": str(folder)}
    with open(folder / "server.log", "w+") as log:
        server = subprocess.Popen(line, stdout=log, stderr=log, env=environment, cwd=folder)
        try:
            wait_for(lambda: server.poll() is not None or healthy(port), 60, "a server")
            assert server.poll() is None, (folder / "server.log").read_text()
            yield f"http://127.0.0.1:{port}/"
        finally:
            server.terminate()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def healthy(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


@contextmanager
def browser(folder):
    """A browser of its own profile that finds no host but this one."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for option in (
        "headless=new",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "disable-quic",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"user-data-dir={folder / 'profile'}",
        "window-size=1280,900",
    ):
        options.add_argument(f"--{option}")
    environment = {**os.environ, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    driver = webdriver.Chrome(options=options, service=Service(DRIVER, env=environment))
    try:
        yield driver
    finally:
        driver.quit()


def wait_for(condition, seconds, what):
    """What the condition yields once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    pytest.fail(f"no {what} within {seconds} s")


def inside(driver, element, selector):
    """The visible parts of the page's elements of one kind."""
    script = "return [...document.querySelectorAll(arguments[0])].map(e => e.shadowRoot.querySelector(arguments[1]))"
    return [found for found in driver.execute_script(script, element, selector) if found and found.is_displayed()]


def picture(driver):
    script = "const image = document.querySelector(arguments[0]); return image && image.naturalWidth && image.src"
    return driver.execute_script(script, PICTURE)


@pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver on the PATH")
def test_the_page_in_a_browser(file, land, tmp_path):
    pytest.importorskip("selenium")
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import Select

    with served(file, tmp_path) as url, browser(tmp_path) as driver:
        driver.get(url)
        first = wait_for(lambda: picture(driver), 40, "picture")

        def changed(before):
            return wait_for(lambda: (now := picture(driver)) != before and now, 15, "other picture")

        text = driver.find_element(By.TAG_NAME, "body").text
        assert "8,100 points in" in text and "Confirm what you find with the model itself" in text
        thumbs = inside(driver, "marimo-slider", "[role=slider]")
        assert len(thumbs) == len(land.names) - 2
        for _ in range(5):
            thumbs[0].send_keys(Keys.ARROW_RIGHT)
        moved = changed(first)
        (reset,) = inside(driver, "marimo-button", "button")
        reset.click()
        wait_for(lambda: picture(driver) == first, 15, "first picture after the reset")
        y_axis = Select(inside(driver, "marimo-dropdown", "select")[1])
        before = y_axis.first_selected_option.text
        y_axis.select_by_visible_text(next(name for name in land.names if name not in ("mu", before)))
        other = changed(first)
        assert len({first, moved, other}) == 3
        assert "Contours of mu and" in driver.find_element(By.CSS_SELECTOR, PICTURE).get_attribute("alt")
        loaded = driver.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
        assert len(loaded) > 5 and not [name for name in loaded if not name.startswith((url, "data:", "blob:"))]
    assert (tmp_path / "server.log").read_text() == f"Serving {url[:-1]} (stop with Ctrl+C)\n"
