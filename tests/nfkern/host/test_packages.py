"""The command that installs what is missing."""

from importlib import metadata

import pytest

from nfkern.host.packages import install_command


@pytest.mark.parametrize(
    ("modules", "command"),
    [
        (("vl_convert",), "pip install 'vl-convert-python>=1.7'"),
        (("pymunk", "imageio_ffmpeg.io"), "pip install 'pymunk<7,>=6.6' 'imageio-ffmpeg>=0.5'"),
        (("own_module",), "pip install own-module"),
    ],
)
def test_modules_are_installed_by_the_requirements_of_nfkern(modules, command, monkeypatch):
    requirements = ["torch>=2.10", *(f'{text}; extra == "x"' for text in ("pymunk<7,>=6.6", "imageio-ffmpeg>=0.5"))]
    monkeypatch.setattr(metadata, "requires", lambda name: [*requirements, 'vl-convert-python>=1.7; extra == "x"'])
    assert install_command(*modules) == command


def test_a_checkout_without_metadata_names_the_distribution(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert install_command("h5py", "gymnasium_robotics") == "pip install h5py gymnasium-robotics"
