"""What `make wheels` holds a wheel and an sdist to, and where links and versions have to agree."""

from __future__ import annotations

import io
import re
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from adaptzip import read
from adaptzip._version import __version__
from adaptzip.models.folder import BaseModel
from checks import addresses
from checks.wheels.bounds import lowest, pins, requirements
from checks.wheels.contents import metadata_problems, sdist_problems, tracked, wheel_problems
from checks.wheels.smoke import make_base

ROOT = Path(__file__).parent.parent
FIXTURE = ROOT / "fixtures" / "lists-minilm-r16"
EXTRAS = ("demo", "plots", "metrics", "distill", "peft", "hub", "gguf", "testing", "test", "oracles", "wheels", "dev")
TRACKED = ("README.md", "adaptzip/__init__.py", "adaptzip/py.typed", "tests/test_it.py")
METADATA = b"Metadata-Version: 2.4\nName: adaptzip\nVersion: 1.0\n"
INFO = {"METADATA": METADATA, "RECORD": b"", "WHEEL": b"", "entry_points.txt": b"", "licenses/LICENSE": b""}


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_requirement_has_a_lowest_version_that_the_pins_are_not_below(extra: str) -> None:
    pinned = pins((ROOT / "constraints.txt").read_text()) | pins((ROOT / "constraints-oracles.txt").read_text())
    for requirement in lowest(requirements([extra])):
        (specifier,) = requirement.specifier
        assert specifier.operator == "=="
        name = requirement.name.lower().replace("_", "-")
        assert all(each.specifier.contains(pinned[name]) for each in requirements([extra]) if each.name == name)


def test_the_lowest_of_two_bounds_is_the_higher_one() -> None:
    wanted = map(Requirement, ["numpy>=1.26", "NumPy>=2.0", "rich>=13", "mlx[cpu]>=0.32; sys_platform == 'linux'"])
    assert [*map(str, lowest(wanted))] == ["NumPy==2.0", "rich==13", 'mlx[cpu]==0.32; sys_platform == "linux"']


@pytest.mark.parametrize("line", ["numpy", "numpy>1", "numpy>=1,<3", "numpy~=1.0"])
def test_a_bound_that_has_no_lowest_version_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match="expected one bound"):
        lowest([Requirement(line)])


def wheel(folder: Path, *names: str) -> Path:
    path = folder / "adaptzip-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
        for name, data in INFO.items():
            archive.writestr(f"adaptzip-1.0.dist-info/{name}", data)
    return path


def sdist(folder: Path, *names: str) -> Path:
    path = folder / "adaptzip-1.0.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(f"adaptzip-1.0/{name}"), io.BytesIO())
    return path


def test_a_wheel_is_the_package_alone(tmp_path: Path) -> None:
    assert not [*wheel_problems(wheel(tmp_path, "adaptzip/__init__.py", "adaptzip/py.typed"), TRACKED)]
    found = [*wheel_problems(wheel(tmp_path, "adaptzip/__init__.py", "tests/test_it.py"), TRACKED)]
    assert len(found) == 2
    assert "lacks adaptzip/py.typed" in found[0]
    assert "holds tests/test_it.py" in found[1]


def test_a_wheel_has_its_licence_and_its_program(tmp_path: Path) -> None:
    path = tmp_path / "bare.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("adaptzip-1.0.dist-info/METADATA", METADATA)
    found = [*wheel_problems(path, ())]
    assert [problem.partition("lacks ")[2].split()[0] for problem in found] == sorted({*INFO} - {"METADATA"})


def test_metadata_that_an_index_would_refuse_is_told() -> None:
    assert not [*metadata_problems(METADATA)]
    (found,) = metadata_problems(METADATA.replace(b"1.0", b"one"))
    assert "'one'" in found


def test_an_sdist_is_the_repository(tmp_path: Path) -> None:
    assert not [*sdist_problems(sdist(tmp_path, "PKG-INFO", *TRACKED), TRACKED)]
    found = [*sdist_problems(sdist(tmp_path, "PKG-INFO", "scratch.py", *TRACKED[:-1]), TRACKED)]
    assert len(found) == 2
    assert "lacks tests/test_it.py" in found[0]
    assert "holds scratch.py" in found[1]


def test_the_base_that_the_adapter_is_merged_into_fits_it(tmp_path: Path) -> None:
    make_base(FIXTURE, tmp_path / "base")
    base = BaseModel.open(tmp_path / "base")
    wanted = {f"{name}.weight": (len(lora.B), lora.A.shape[1]) for name, lora in read(FIXTURE).modules.items()}
    assert {name: base.stored(name).shape for name in base.tensors} == wanted
    assert len(wanted) == 36


ABSOLUTE = re.compile(r"https://(?:raw\.githubusercontent|github)\.com/adaptzip/[\w./-]*")


def test_absolute_links_to_the_repository_agree() -> None:
    texts = [ROOT / name for name in tracked(ROOT) if name.endswith((".md", ".cff", ".toml", ".yml"))]
    links = [link for path in texts for link in ABSOLUTE.findall(path.read_text(encoding="utf-8"))]
    raw = addresses.address("a.svg").partition("/main/")[0]
    assert len(links) > 20
    assert not [link for link in links if not (f"{link}/".startswith((f"{addresses.base()}/", f"{raw}/")))]


@pytest.mark.parametrize("path", ["docs/index.md", "docs/benchmarks.md#tables", "docs/images/a.svg", "LICENSE"])
def test_paths_and_their_addresses_are_one_to_one(path: str) -> None:
    assert addresses.path_of(addresses.address(path)) == path


@pytest.mark.parametrize("link", ["docs/index.md", "https://example.org/docs/index.md", "#methods"])
def test_what_leads_elsewhere_is_no_path(link: str) -> None:
    assert addresses.path_of(link) is None


def test_images_are_linked_as_files() -> None:
    assert addresses.path_of(f"{addresses.base()}/blob/main/docs/images/a.svg") is None


def test_the_citation_is_of_this_version_and_place() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    told = dict(re.findall(r"^([\w-]+): (\S+)$", text, flags=re.MULTILINE))
    assert told["version"] == __version__
    assert told["repository-code"] == told["url"] == addresses.base()
