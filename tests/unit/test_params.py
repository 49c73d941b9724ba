"""The tables agree with themselves and with the modules that read them."""

import importlib.util

import pytest

from vzpy import actions, config, optiontable, params, setoptions, values


def test_kinds_and_defaults():
    for param in params.BY_KEY.values():
        kind = values.KINDS[param.kind]
        assert not param.cli or param.cli in values.KINDS
        if param.default is not None:
            assert kind.text(kind.parse(param.default)) == param.default, param.key


def test_keys_are_unique_and_beancounters_come_first():
    keys = [param.key for param in params.BY_KEY.values()]
    assert len(set(keys)) == len(keys)
    assert tuple(keys[: len(params.UBC_KEYS)]) == params.UBC_KEYS
    assert len(params.UBC_KEYS) == 22
    assert not set(config.RENAMED) & set(keys) and set(config.RENAMED.values()) <= set(keys)


def test_columns_are_unique():
    found = [param.column.split() for param in params.BY_KEY.values() if param.column]
    assert {len(words) for words in found} == {4}
    assert len({words[0] for words in found}) == len(found)


def test_a_room_that_needs_a_running_vps_has_its_text():
    live = {p.room for p in params.BY_KEY.values() if p.room not in (params.CORE, params.NAME)}
    silent = {params.FS, params.DISK, params.FILTER, params.CAPS}
    assert live - silent == set(params.NOT_RUNNING)


@pytest.mark.parametrize("action", actions.all_actions(), ids=lambda action: action.name)
def test_actions(action):
    assert importlib.util.find_spec(f"vzpy.commands.vzctl_{action.module}")
    words = [name for o in action.options for name in (o.name, *o.aliases)]
    assert len(set(words)) == len(words)
    shorts = [o.short for o in action.options if o.short]
    assert len(set(shorts)) == len(shorts)
    for option in action.options:
        assert not option.kind or option.kind in values.KINDS
        assert not option.key or option.key in params.BY_KEY
    assert not action.sister or action.not_here == actions.BY_NAME[action.sister].options


def test_every_option_table_belongs_to_an_action():
    known = {action.name for action in actions.all_actions()}
    assert set(optiontable.OPTIONS) < known and set(setoptions.OPTIONS) < known
    assert all(optiontable.of(action) == found for action, found in setoptions.OPTIONS.items())


def test_short_options_of_2005():
    shorts = {o.short: o.name for o in setoptions.SET if o.short}
    assert set("plnftie") == set(shorts)
    assert shorts["p"] == "numproc" and shorts["t"] == "numpty"
