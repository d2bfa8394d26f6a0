"""Every agent's file is found, and named by what it registers."""

import pytest

from nfkern.algorithms.agents.base import REGISTERED, register
from nfkern.algorithms.agents.listing import ROOMS, summaries
from nfkern.algorithms.agents.registry import AGENTS


def test_the_list_read_from_the_files_is_that_of_the_imported_agents():
    assert AGENTS == REGISTERED
    assert summaries() == {name: agent.summary for name, agent in AGENTS.items()}
    rooms = [agent.__module__.split(".")[-2] for agent in AGENTS.values()]
    assert list(dict.fromkeys(rooms)) == list(ROOMS)


def test_agents_have_names_of_their_own():
    for name, agent in AGENTS.items():
        assert agent.name == name
        assert agent.presets
    assert len({agent.config_class for agent in AGENTS.values()}) == len(AGENTS)
    with pytest.raises(ValueError, match="name: expected one that no agent has, got 'iql'"):
        register("iql", summary="another", presets={})(AGENTS["fql"])
    assert AGENTS["fql"].name == "fql"
