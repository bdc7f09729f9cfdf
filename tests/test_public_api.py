import subprocess
import sys
from pathlib import Path

import pytest

import offramp
from offramp.classifier import Classifier, Predictions
from offramp.classifier.folder import save
from tiny import make_classifier, write_images


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_offramp_loads_neither_pytorch_nor_anything_else_heavy() -> None:
    code = "import sys, offramp; print(*({'torch', 'numpy', 'PIL', 'rich', 'typer'} & set(sys.modules)))"
    assert run_python(code).split() == []


def test_the_command_tells_its_version_without_waiting_for_pytorch() -> None:
    code = (
        "import runpy, sys\n"
        "sys.argv = ['offramp', '--version']\n"
        "try:\n"
        "    runpy.run_module('offramp', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    print(end.code, 'torch' in sys.modules)"
    )
    assert run_python(code).splitlines() == [f"offramp {offramp.__version__}", "0 False"]


def test_predicting_loads_no_training_code(tmp_path: Path) -> None:
    save(make_classifier(), tmp_path / "model")
    (image,) = write_images(tmp_path, 1)
    code = (
        "import sys\n"
        "from offramp.cli.main import main\n"
        f"code = main(['predict', {str(tmp_path / 'model')!r}, {str(image)!r}, '--budget', '1GMAC', '--json'])\n"
        "heavy = ('offramp.train', 'offramp.recipes', 'matplotlib', 'sklearn', 'pyarrow')\n"
        "print(code, 'offramp.classifier' in sys.modules, *(name for name in sys.modules if name.startswith(heavy)))"
    )
    assert run_python(code).splitlines()[-1].split() == ["0", "True"]


def test_every_public_name_resolves_to_what_it_says() -> None:
    for name in offramp.__all__:
        assert getattr(offramp, name).__name__ == name


def test_dir_lists_the_public_names_and_the_version() -> None:
    assert set(dir(offramp)) == {*offramp.__all__, "__version__"}


def test_public_names_are_the_same_objects_as_in_their_homes() -> None:
    assert offramp.Classifier is Classifier
    assert offramp.Predictions is Predictions


def test_all_errors_are_offramp_errors() -> None:
    errors = [getattr(offramp, name) for name in offramp.__all__ if name.endswith("Error")]
    assert len(errors) == 6
    assert all(issubclass(error, offramp.OfframpError) for error in errors)


def test_a_name_nobody_promised_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="module 'offramp' has no attribute 'predict'"):
        getattr(offramp, "predict")  # noqa: B009 - what it does is what is tested
