"""The space of a search: what a YAML file may say, and the settings that it stands for."""

import optuna
import pytest

from hf_llm.search.space import (
    all_settings,
    draw_setting,
    list_settings,
    read_space,
    setting_flags,
    setting_key,
    settings_to_check,
)


def space(tmp_path, text):
    (tmp_path / "space.yaml").write_text(text)
    return read_space(str(tmp_path / "space.yaml"))


CONDITIONS = """
momentum: {low: 0, high: 1, step: 0.5, when: {optim: sgd}}
optim: [adamw, sgd]
config_overrides.hidden_size: [64, 128]
"""


def test_a_grid_has_every_setting_once_and_conditions_leave_values_out(tmp_path):
    """A parameter with `when` is in the settings in which the others have these values, wherever it is in the file."""
    settings = list(all_settings(space(tmp_path, CONDITIONS)))
    assert len({setting_key(setting) for setting in settings}) == len(settings) == 2 * (1 + 3)
    assert [s.get("momentum") for s in settings if s["optim"] == "sgd"] == [0.0, 0.5, 1.0] * 2
    assert not any("momentum" in s for s in settings if s["optim"] == "adamw")


def test_drawn_settings_are_those_of_the_grid(tmp_path):
    """Optuna draws no setting that the list lacks, and with time each of them; ranges keep their ends and steps."""
    parameters = space(tmp_path, CONDITIONS)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = {setting_key(draw_setting(study.ask(), parameters)) for _ in range(100)}
    assert drawn == {setting_key(setting) for setting in list_settings(parameters)}


def test_values_of_a_range_are_short_and_within_it(tmp_path):
    """Four digits, so that a person can repeat them; whole numbers where the ends are whole."""
    parameters = space(tmp_path, "a: {low: 1e-5, high: 1e-2, log: true}\nb: {low: 1, high: 10, step: 4}\nc: [1e-4]")
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(30):
        setting = draw_setting(study.ask(), parameters)
        assert 1e-5 <= setting["a"] <= 1e-2
        assert setting["a"] == float(f"{setting['a']:.4g}")
        assert setting["b"] in (1, 5, 9)
        assert isinstance(setting["b"], int)
        assert setting["c"] == 0.0001
    assert list_settings(parameters) is None


def test_flags_of_a_setting_are_those_that_a_recipe_takes():
    """Entries of a mapping become one flag, lists several values, null no flag."""
    setting = {"bf16": False, "seed": None, "lora_target_modules": ["q", "v"], "config_overrides.a": 1}
    setting |= {"learning_rate": 1e-05, "config_overrides.b": "x"}
    assert setting_flags(setting) == [
        "--bf16=False",
        "--lora_target_modules",
        "q",
        "v",
        '--config_overrides={"a": 1, "b": "x"}',
        "--learning_rate=1e-05",
    ]


def test_every_value_is_in_a_setting_that_is_checked(tmp_path):
    """Also of a parameter with a condition, together with what it needs."""
    settings = list(settings_to_check(space(tmp_path, CONDITIONS)))
    assert {setting.get("momentum") for setting in settings} == {None, 0, 1.0}
    assert all(setting["optim"] == "sgd" for setting in settings if "momentum" in setting)
    assert {setting["config_overrides.hidden_size"] for setting in settings} == {64, 128}


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("- a", "write lines `key: value`"),
        ("a: []", "has no choices"),
        ("a: [1, 1]", "has `1` twice"),
        ("a: {low: 1}", "has no `high`"),
        ("a: {low: 2, high: 1}", "`low` must be less than `high`"),
        ("a: {low: 0, high: 1, log: true}", "needs `low` above 0"),
        ("a: {low: 1, high: 2, log: true, step: 1}", "leave out one"),
        ("a: {low: x, high: 1}", "has `low` x: give a number"),
        ("a: {low: 0, high: 1, step: 3}", "has `step` 3"),
        ("a: {low: 0, hihg: 1}", "has `hihg`: give high"),
        ("a: {hidden_size: [1, 2]}", "an entry of a mapping is written `a.hidden_size`"),
        ("a: {choices: [1], low: 0}", "has `choices` and `low`"),
        ("a: {choices: [1], when: {b: 1}}", "has `when` b, which is not in the space"),
        ("a: {choices: [1], when: {b: 3}}\nb: [1, 2]", "`when` b: 3, which it never is"),
        ("a: {choices: [1], when: {b: 1}}\nb: {choices: [1], when: {a: 1}}", "a, b wait for each other"),
        ("a: [1\n", "cannot be read"),
    ],
)
def test_a_space_that_says_nothing_clear_is_refused(tmp_path, text, message):
    """In one line that names the file and the parameter."""
    with pytest.raises(ValueError, match=r"space\.yaml") as error:
        space(tmp_path, text)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
