import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import pytest

from rlm.config import canonical, digest, identity, to_plain


@dataclass(frozen=True)
class _Inner:
    kind: Literal["inner"] = "inner"
    width: int = 3


@dataclass(frozen=True)
class _Outer:
    inner: _Inner = _Inner()
    steps: int = 1
    names: tuple[str, ...] = ()


def test_identity__when_fields_have_their_defaults() -> None:
    assert identity(_Outer()) == {}
    assert identity(_Outer(inner=_Inner(width=4))) == {"inner": {"kind": "inner", "width": 4}}


def test_identity__when_a_truth_value_equals_a_number() -> None:
    assert identity(_Outer(steps=True)) == {"steps": True}


def test_identity__when_a_value_has_no_stable_form() -> None:
    with pytest.raises(TypeError, match="no stable serialisation"):
        identity({"a": {1, 2}})


def test_canonical__when_the_order_differs() -> None:
    assert canonical({"b": 1, "a": [1.5, None]}) == canonical({"a": [1.5, None], "b": 1}) == '{"a":[1.5,null],"b":1}'


def test_digest__when_frozen() -> None:
    # If this fails, every store in use becomes stale.
    assert digest({"a": [1, 2.5, "x", None, True], "b": {"kind": "é"}}) == "b61328f5d227ab9c"


def test_to_plain__when_defaults_are_kept() -> None:
    assert to_plain({"x": _Outer(names=("a",))}) == {
        "x": {"inner": {"kind": "inner", "width": 3}, "steps": 1, "names": ["a"]}
    }


HEAVY = "{'torch', 'lightning', 'transformers', 'datasets', 'mlflow', 'numpy', 'scipy', 'pandas', 'matplotlib'}"


def test_import__when_planning_imports_nothing_heavy() -> None:
    modules = "rlm, rlm.cli, rlm.config, rlm.table, rlm.launch, rlm.commands.plan, rlm.commands.run, rlm.worker"
    code = f"import sys, {modules}; heavy = {HEAVY} & set(sys.modules); assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import__when_timed() -> None:
    code = "import time; start = time.perf_counter(); import rlm, rlm.cli; print(time.perf_counter() - start)"
    runs = [subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True) for _ in range(3)]
    assert min(float(run.stdout) for run in runs) < 0.3
