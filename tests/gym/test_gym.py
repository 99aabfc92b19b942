"""Environments: rewards against pyhf on edited workspaces, Gymnasium's own checker, batches, seeds, wrong input."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pyhf
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import SyncVectorEnv

import nextstat_jax as nextstat
from nextstat_jax._training._objectives import OBJECTIVES
from nextstat_jax.gym import (
    REWARD_METRICS,
    EnvState,
    HistFactoryCore,
    make_histfactory_env,
    make_histfactory_vector_env,
)
from nextstat_jax.gym._core import measure
from tests.building import normfactor, sample, workspace
from tests.gym.support import spec_of
from tests.selection import mostly_slow

gymnasium = pytest.importorskip("gymnasium")

OPTIONS = {"channel": "SR", "max_steps": 3, "init_noise": 0.2}


@pytest.fixture(scope="module")
def model():
    return nextstat.from_pyhf(spec_of())


@pytest.fixture(scope="module")
def env(model):
    return make_histfactory_env(model, reward_metric="z0", render_mode="ansi", **OPTIONS)


def pyhf_metric(yields, metric, mu=None, data=None):
    """The oracle: the workspace's JSON edited, and read and fitted by pyhf."""
    spec = spec_of(yields)
    ws = pyhf.Workspace(spec)
    model = ws.model(poi_name="mu")
    data = ws.data(model) if data is None else data
    if metric == "nll":
        return -float(model.logpdf(model.config.suggested_init(), data)[0])
    test = pyhf.infer.test_statistics.q0 if metric in ("q0", "z0") else pyhf.infer.test_statistics.qmu_tilde
    settings = (model.config.suggested_init(), model.config.suggested_bounds(), model.config.suggested_fixed())
    value = float(test(0.0 if mu is None else mu, data, model, *settings))
    return math.sqrt(value) if metric[0] == "z" else value


@pytest.mark.parametrize(
    ("metric", "mode", "mu"),
    [
        ("nll", "logmul", None),
        ("q0", "add", None),
        ("z0", "logmul", None),
        pytest.param("qmu", "logmul", 2.5, marks=pytest.mark.slow),
        pytest.param("zmu", "add", 2.5, marks=pytest.mark.slow),
    ],
)
def test_rewards_are_pyhfs_for_the_edited_workspace(model, metric, mode, mu):
    env = make_histfactory_env(
        model, channel="SR", reward_metric=metric, action_mode=mode, action_scale=0.5, max_steps=2, mu=mu
    )
    env.reset(seed=1)
    yields, total = np.array([2.0, 5.0]), 0.0
    for action in ([0.5, -1.0], [-0.2, 0.9]):
        change = 0.5 * np.array(action)
        yields = yields * np.exp(change) if mode == "logmul" else yields + change
        observation, reward, terminated, truncated, info = env.step(np.array(action))
        expected = pyhf_metric(yields, metric, mu)
        # pyhf's minimizer stops some 1e-6 above the minimum; the NLL needs none.
        tolerance = {"rel": 1e-10} if metric == "nll" else {"rel": 2e-4, "abs": 2e-5}
        assert info[metric] == pytest.approx(expected, **tolerance)
        assert reward == pytest.approx(-info["nll"] if metric == "nll" else info[metric], rel=1e-15)
        np.testing.assert_allclose(info["yields"], yields, rtol=1e-14)
        np.testing.assert_allclose(observation, yields, rtol=1e-7)
        assert observation.dtype == np.float32
        assert not terminated
        assert info["accepted"]
        total += reward
    assert truncated
    assert metric == "nll" or total > 0


def test_options_change_what_they_say(model):
    step = np.array([1.0, -1.0])

    def first(**options):
        env = make_histfactory_env(model, channel="SR", **{"reward_metric": "z0", **options})
        env.reset(seed=0)
        return env.step(step)

    base = first()
    assert first(improvement=True)[1] == pytest.approx(base[1] - pyhf_metric((2.0, 5.0), "z0"), abs=1e-4)
    np.testing.assert_allclose(first(normalize=True)[0], base[0] / np.array([2.0, 5.0]), rtol=1e-6)
    np.testing.assert_allclose(first(clip_min=4.9)[0], [4.9 * math.exp(0.1), 4.9], rtol=1e-6)
    np.testing.assert_allclose(first(clip_max=2.1)[0], [2.1, 2.1 * math.exp(-0.1)], rtol=1e-6)
    # The default of "add" is a tenth of the largest yield.
    np.testing.assert_allclose(first(action_mode="add")[0], [2.5, 4.5], rtol=1e-6)
    np.testing.assert_allclose(first(action_mode="add", action_scale=6.0)[0], [8.0, 0.0], rtol=1e-6)
    params = model.parameter_init() * 1.05
    assert first(reward_metric="nll", params=params)[1] != first(reward_metric="nll")[1]
    changed, init = model.with_templates({("signal", "SR"): base[4]["yields"]}), model.parameter_init()
    given = first(data=[60.0, 30.0, 25.0], reward_metric="nll")
    assert given[1] == pytest.approx(-float(changed.nll(init, [60.0, 30.0, 25.0])), rel=1e-10)
    asimov = first(data="asimov", reward_metric="nll")
    assert asimov[1] == pytest.approx(-float(changed.nll(init, changed.asimov_data(mu=1.0))), rel=1e-10)
    noisy = make_histfactory_env(model, channel="SR", init_noise=0.3).reset(seed=0)[0]
    assert (np.abs(np.log(noisy / [2.0, 5.0])) > 1e-3).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("uncertainty", {}, marks=pytest.mark.slow),
        ("zmu", {"mu": 2.0}),
        # A search takes long to compile.
        pytest.param("limit", {"level": 0.9}, marks=pytest.mark.slow),
    ],
)
def test_objectives_of_a_training_are_rewards(model, name, options):
    """Their value is that of the loss, with the sign that makes larger better."""
    env = make_histfactory_env(model, channel="SR", reward_metric=name, data="asimov", **options)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(np.array([1.0, -1.0]))
    loss = nextstat.SignificanceLoss(model, "signal", data="asimov", objective=name, eps=0.0, **options)
    assert reward == pytest.approx(-float(loss({("signal", "SR"): info["yields"]})), rel=1e-8)
    assert info[name] == pytest.approx(abs(reward), rel=1e-12)
    assert info["accepted"]
    assert set(REWARD_METRICS) == {"nll", *OBJECTIVES}


def test_actions_beyond_the_box_count_as_its_ends(env):
    ends = []
    for factor in (1.0, 50.0):
        env.reset(seed=3)
        ends.append(env.step(factor * np.array([1.0, -1.0]))[0])
    np.testing.assert_array_equal(*ends)


@pytest.mark.filterwarnings("ignore:.*environment not having a spec:UserWarning")  # a plain object has no registration
def test_gymnasiums_checker_finds_nothing(model, env):
    check_env(env)
    check_env(make_histfactory_env(model, channel="SR", normalize=True, action_mode="add"))


@pytest.mark.slow
def test_environments_can_be_registered_and_made_by_name():
    name = "nextstat-jax-test/HistFactory-v0"
    gymnasium.register(
        name,
        entry_point="nextstat_jax.gym:make_histfactory_env",
        vector_entry_point="nextstat_jax.gym:make_histfactory_vector_env",
        kwargs={"workspace": spec_of(), "reward_metric": "z0", **OPTIONS},
    )
    try:
        check_env(gymnasium.make(name).unwrapped)
        vector = gymnasium.make_vec(name, num_envs=3, vectorization_mode="vector_entry_point")
        assert vector.reset(seed=1)[0].shape == (3, 2)
    finally:
        del gymnasium.registry[name]


def test_a_batch_equals_a_loop_and_jit_equals_eager(model):
    # The statistics go through the same functions; their batches are compared with loops below.
    core = HistFactoryCore(model, "SR", init_noise=0.2)
    keys = jax.random.split(jax.random.key(5), 3)
    actions = jnp.asarray(np.random.default_rng(2).uniform(-1, 1, (3, 2)))
    observations, states = jax.jit(jax.vmap(HistFactoryCore.reset, (None, 0)))(core, keys)
    batch = jax.jit(jax.vmap(HistFactoryCore.step, (None, 0, 0)))(core, states, actions)
    for k in range(3):
        observation, state = core.reset(keys[k])
        one = core.step(state, actions[k])
        assert isinstance(one[1], EnvState)
        np.testing.assert_allclose(observation, observations[k], rtol=1e-6)
        for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(batch), strict=True):
            np.testing.assert_allclose(ours, theirs[k], rtol=1e-6, atol=1e-9)
    # Inside jit a NaN cannot be refused at the door: the step is not taken.
    _, after, reward, _, _, info = jax.jit(HistFactoryCore.step)(core, core.origin(), jnp.array([jnp.nan, 0.0]))
    assert not info["accepted"]
    assert float(reward) == -float(core.start_metrics["nll"])
    np.testing.assert_array_equal(after.yields, core.start)


@pytest.mark.parametrize("mode", mostly_slow(["next_step", "same_step"], "same_step"))
def test_vector_equals_gymnasiums_loop_over_single_environments(model, env, mode):
    singles = SyncVectorEnv(
        [lambda: make_histfactory_env(model, reward_metric="z0", **OPTIONS)] * 3,
        autoreset_mode={"next_step": "NextStep", "same_step": "SameStep"}[mode],
    )
    vector = make_histfactory_vector_env(
        model, num_envs=3, autoreset_mode=mode, reward_metric="z0", render_mode="ansi", **OPTIONS
    )
    assert vector.metadata["autoreset_mode"] == singles.metadata["autoreset_mode"]
    assert vector.observation_space == singles.observation_space
    assert vector.action_space == singles.action_space
    assert_same(vector.reset(seed=7), singles.reset(seed=7))
    vector.action_space.seed(1)
    ends = 0
    for k in range(9):
        if k == 5:
            # From here on the environments end at different times.
            mask = np.array([False, True, False])
            seeds = [None, 11, None]
            options = [{"reset_mask": mask.copy()} for _ in range(2)]
            got = vector.reset(seed=seeds, options=options[0]), singles.reset(seed=seeds, options=options[1])
            assert_same(*got)
        actions = vector.action_space.sample()
        ours, theirs = vector.step(actions), singles.step(actions)
        assert_same(ours, theirs)
        ends += int(ours[3].sum())
    assert ends >= 5
    assert len(vector.render()) == 3


def assert_same(ours, theirs):
    """Equal up to rounding, infos with their masks included."""
    assert len(ours) == len(theirs)
    *ours, info = ours
    *theirs, expected = theirs
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
    assert_same_info(info, expected)


def assert_same_info(info, expected):
    assert set(info) == set(expected)
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_same_info(info[name], value)
        elif value.dtype == object:
            for k in np.flatnonzero(expected[f"_{name}"]):
                np.testing.assert_allclose(info[name][k], value[k], rtol=1e-6)
        else:
            np.testing.assert_allclose(info[name], value, rtol=1e-5, atol=1e-8, err_msg=name)


def test_disabled_autoreset_waits_for_the_caller(model):
    vector = make_histfactory_vector_env(model, num_envs=3, autoreset_mode="disabled", reward_metric="z0", **OPTIONS)
    vector.reset(seed=1)
    for _ in range(3):
        ended = vector.step(np.zeros((3, 2)))[3]
    assert ended.all()
    with pytest.raises(nextstat.ModelError, match=r"episodes \[0, 1, 2\] have ended"):
        vector.step(np.zeros((3, 2)))
    vector.reset(options={"reset_mask": ended})
    assert not vector.step(np.zeros((3, 2)))[3].any()


def test_seeds_reproduce_episodes(env):
    def run(seed):
        starts = [env.reset(seed=seed)[0], env.reset()[0]]
        return np.concatenate([*starts, env.step([0.3, -0.4])[0]])

    np.testing.assert_array_equal(run(4), run(4))
    assert (run(4) != run(5)).all()
    assert (env.reset(seed=4)[0] != env.reset()[0]).all()


def test_a_step_where_the_metric_is_infinite_is_not_taken():
    spec = workspace(
        {"SR": [sample("signal", [2.0, 4.0], normfactor("mu")), sample("bkg", [1.0, 10.0])]}, {"SR": [3.0, 14.0]}
    )
    env = make_histfactory_env(spec, sample="bkg", reward_metric="q0", action_mode="add", action_scale=1.0)
    _, begin = env.reset(seed=0)
    # Without background in the first bin, whose counts are 3, "no signal" is impossible: q0 would be infinite.
    observation, reward, _, _, info = env.step([-1.0, 1.0])
    assert not info["accepted"]
    np.testing.assert_array_equal(observation, [1.0, 10.0])
    assert reward == begin["q0"] == info["q0"]
    assert env.step([-0.5, 1.0])[4]["accepted"]


def test_rendering_shows_the_yields(env):
    env.reset(seed=2)
    text = env.render()
    assert text.startswith("signal in SR after 0 steps")
    assert f"{float(env.state.yields[1]):.6g}" in text
    silent = make_histfactory_env(env.core.model, channel="SR")
    silent.reset()
    assert silent.render() is None


def test_float32_models_work(model):
    single = nextstat.from_pyhf(spec_of(), dtype="float32")
    rewards = []
    for chosen in (model, single):
        env = make_histfactory_env(chosen, channel="SR")
        env.reset(seed=1)
        rewards.append(env.step([1.0, 1.0])[1])
    assert env.state.yields.dtype == jnp.float32
    assert rewards[1] == pytest.approx(rewards[0], rel=1e-5)


def test_other_numbers_and_options_compile_nothing(env):
    env.reset(seed=0)
    before = measure._cache_size()
    options = {"action_mode": "add", "normalize": True, "improvement": True, "max_steps": 9, "init_noise": 0.1}
    other = make_histfactory_env(spec_of((3.0, 6.0)), channel="SR", reward_metric="q0", **options)
    other.reset(seed=0)
    other.step([0.1, 0.2])
    assert measure._cache_size() == before


def build(model, **options):
    return make_histfactory_env(model, **{"channel": "SR", "reward_metric": "z0", **options})


def begun(model):
    env = build(model)
    env.reset(seed=0)
    return env


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: build(m, sample="sig"), "there is no sample 'sig'; samples: bkg, signal"),
        (lambda m: build(m, channel="VR"), "there is no channel 'VR'; channels: CR, SR"),
        (lambda m: build(m, channel=None), "several channels: channel= one of CR, SR"),
        (lambda m: build(m, reward_metric="z1"), "reward_metric='z1': expected one of nll, z0, q0"),
        (lambda m: build(m, action_mode="mul"), "action_mode='mul': expected 'logmul' or 'add'"),
        (lambda m: build(m, max_steps=0), "max_steps=0: expected a positive integer"),
        (lambda m: build(m, max_steps=2.5), "max_steps=2.5"),
        (lambda m: build(m, mu=1.0), "mu=1.0: only reward_metric='cls' or 'zmu' or 'qmu' depends"),
        (lambda m: build(m, level=0.9), "level=0.9: only reward_metric='limit' depends"),
        (lambda m: build(m, reward_metric="limit", level=0.05), "level=0.05: expected a number between 0.5 and 1"),
        (lambda m: build(m, reward_metric="qmu", mu=0.0), "mu=0.0: expected a finite number above 0"),
        (lambda m: build(m, params=[1.0]), "params is for reward_metric='nll'"),
        (lambda m: build(m, reward_metric="nll", params=[1.0]), r"params has shape \(1,\)"),
        (lambda m: build(m, data="toys"), "data='toys'"),
        (lambda m: build(m, action_scale=0.0), "action_scale=0.0: expected a finite number above 0"),
        (lambda m: build(m, action_scale="big"), "action_scale='big'"),
        (lambda m: build(m, init_noise=-1.0), "init_noise=-1.0"),
        (lambda m: build(m, clip_min=-1.0), "clip_min=-1.0: expected a finite number not below 0"),
        (lambda m: build(m, clip_min=2.0, clip_max=2.0), "clip_max=2.0: expected a number above clip_min=2"),
        (lambda m: build(m.with_templates({("signal", "SR"): [0.0, 0.0]})), "no positive yield to multiply in 'SR'"),
        (lambda m: build(m, render_mode="human"), "render_mode='human'"),
        (lambda m: build(m).step([0.0, 0.0]), "call reset"),
        (lambda m: begun(m).step([0.0]), r"action has shape \(1,\), expected \(2,\)"),
        (lambda m: begun(m).step([0.0, math.nan]), r"action\[1\] is nan"),
        (lambda m: begun(m).step("left"), "action is 'left'"),
        (lambda m: make_histfactory_vector_env(m, num_envs=0, channel="SR"), "num_envs=0"),
        (lambda m: make_histfactory_vector_env(m, num_envs=2, channel="SR", autoreset_mode="x"), "autoreset_mode='x'"),
        (lambda m: make_histfactory_vector_env(m, num_envs=2, channel="SR").step([[0.0, 0.0]] * 2), "call reset"),
        (lambda m: make_histfactory_vector_env(m, num_envs=2, channel="SR").reset(seed=[1]), "seed has 1 entries"),
        (
            lambda m: make_histfactory_vector_env(m, num_envs=2, channel="SR").reset(
                options={"reset_mask": np.array([True, False])}
            ),
            "have not begun",
        ),
    ],
)
def test_wrong_input_has_one_clear_line(model, call, message):
    with pytest.raises(nextstat.ModelError, match=message) as failure:
        call(model)
    assert "\n" not in str(failure.value)


def test_samples_that_a_channel_lacks_are_named():
    spec = copy.deepcopy(spec_of())
    spec["channels"][1]["samples"].pop(0)
    with pytest.raises(nextstat.ModelError, match="channel 'CR' has no sample 'signal'; its samples: bkg"):
        make_histfactory_env(spec, channel="CR")
    # One channel is left to choose from.
    assert make_histfactory_env(spec).core.channel == "SR"


def test_without_gymnasium_the_core_works_and_the_rest_says_what_to_install():
    code = (
        "import sys; sys.modules['gymnasium'] = None\n"
        "import nextstat_jax.gym as gym, nextstat_jax as nextstat\n"
        "assert 'HistFactoryEnv' in dir(gym)\n"
        "for call in (lambda: gym.HistFactoryEnv, lambda: gym.make_histfactory_env({})):\n"
        "    try: call()\n"
        "    except nextstat.MissingExtraError as e: print(e)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.stdout.split("\n")[:2] == ["gymnasium is not installed: pip install 'nextstat-jax[rl]'"] * 2, (
        done.stderr
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # what the training library and PyTorch say about their own insides
def test_an_agent_learns():
    sb3 = pytest.importorskip("stable_baselines3")
    options = {"channel": "SR", "reward_metric": "z0", "action_scale": 0.1, "max_steps": 10, "init_noise": 0.1}
    options |= {"data": "asimov", "clip_max": 20.0, "normalize": True}
    env = make_histfactory_env(spec_of(), **options)

    def mean_reward(act):
        total = 0.0
        for seed in range(20):
            observation, _ = env.reset(seed=seed)
            for _ in range(10):
                observation, reward, *_ = env.step(act(observation))
                total += reward
        return total / 200

    env.action_space.seed(0)
    random = mean_reward(lambda _: env.action_space.sample())
    agent = sb3.PPO("MlpPolicy", env, n_steps=128, batch_size=64, learning_rate=3e-3, gamma=0.9, seed=0, device="cpu")
    before = mean_reward(lambda o: agent.predict(o, deterministic=True)[0])
    agent.learn(3000)
    after = mean_reward(lambda o: agent.predict(o, deterministic=True)[0])
    print(f"mean Z0: random {random:.3f}, before {before:.3f}, after {after:.3f}")
    # Always +1 is the best there is.
    best = mean_reward(lambda _: np.ones(2))
    assert after > random + 0.5 * (best - random)
