"""The very first line of the program."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from monitor.__main__ import run


def interrupted() -> None:
    raise KeyboardInterrupt


def test_ctrl_c_while_the_program_still_loads_ends_it_cleanly(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "monitor.cli.main", SimpleNamespace(run=interrupted))
    with pytest.raises(SystemExit) as leaving:
        run()
    assert leaving.value.code == 130
    assert capsys.readouterr() == ("", "")
