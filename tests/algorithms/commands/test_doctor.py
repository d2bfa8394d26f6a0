"""The doctor says what there is, with reasons."""

from nfkern import numerics
from nfkern.algorithms.commands import doctor
from nfkern.algorithms.evaluation import video


def test_all_sections(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "rendering_backends", lambda: {"egl": None, "osmesa": "Traceback\nno library"})
    (tmp_path / "some-v0.npz").touch()
    (tmp_path / "some-v0-val.npz").touch()
    assert doctor.Doctor(dataset_dir=tmp_path).run() == 0
    out = capsys.readouterr().out
    for expected in ("torch 2.", "threads", "CUDA: ", "reason", "egl: works", "osmesa: no library", ": some-v0 ("):
        assert expected in out
    assert "the reference (stacked PyTorch)" in out


def test_the_reasons_of_the_reference_are_said(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "rendering_backends", dict)
    monkeypatch.setattr(doctor, "backend_reasons", lambda name, device: [f"no {device} kernels"])
    doctor.Doctor(dataset_dir=tmp_path).run()
    assert "ops; reason: no cpu kernels" in capsys.readouterr().out


def test_what_is_missing_is_said(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "rendering_backends", dict)
    monkeypatch.setitem(doctor.PACKAGES, "core", ("torch", "no-such-package"))
    assert doctor.Doctor(dataset_dir=tmp_path / "none").run() == 1
    out = capsys.readouterr().out
    assert "no-such-package (missing)" in out
    assert "missing: no-such-package; install with" in out
    assert "not there yet; `nfkern data generate` makes it" in out


def test_numerics_are_measured_when_asked_for(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "rendering_backends", dict)
    monkeypatch.setattr(numerics, "table", lambda: ["the table"])
    for asked in (False, True):
        assert doctor.Doctor(dataset_dir=tmp_path, numerics=asked).run() == 0
        assert ("numerics\n  the table" in capsys.readouterr().out) == asked
