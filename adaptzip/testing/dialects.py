"""The conformance suite of checkpoint dialects, which a plug-in's author inherits.

A subclass names the dialect, and pytest finds the tests in it:

    class TestMine(DialectTests):
        dialect = MINE

The dialect must be installed, by its entry point, so that reading and exporting find it. What the tests need to know of
it is said by `adapter`, `compressed` and `checkpoint`, which a subclass overrides where the dialect holds other things
than two linear layers and a head.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from adaptzip.checkpoints import (
    Checkpoint,
    Dialect,
    NativeWriter,
    Reader,
    Writer,
    dialects,
    opener,
    recognise,
    resolved,
    vet,
)
from adaptzip.checkpoints._keys import PREFIX
from adaptzip.core.adapter import Adapter
from adaptzip.core.comparing import same_bits
from adaptzip.core.compressed import Compressed
from adaptzip.errors import AdaptzipError, OutputError, RefusedError, UsageError
from adaptzip.files.names import is_file_name
from adaptzip.files.weights import open_weights
from adaptzip.fitting.compression import compress
from adaptzip.restoring.exporting import export
from adaptzip.restoring.opening import open_checkpoint, weight_file
from adaptzip.restoring.reading import read
from adaptzip.restoring.reconstruction import reconstruct
from adaptzip.testing._adapters import (
    STRANGE,
    Change,
    alike,
    by_target,
    pipeline_adapters,
    renamed,
    same_tensors,
    small_adapter,
    with_nan,
    without,
)
from adaptzip.testing.adapters import relative_error

__all__ = ["DialectTests", "small_adapter"]


class DialectTests:
    """What holds for every dialect, by what it can do. The dialect has to be installed.

    Attributes:
        dialect: the object that its entry point names.
        base: the folder of a base model, for a dialect that reads or writes nothing without one; a fixture may set it.
    """

    dialect: ClassVar[Dialect]
    base: Path | None = None

    def adapter(self) -> Adapter:
        """An adapter in memory, with an extra at least, that the dialect can hold."""
        return small_adapter()

    def compressed(self) -> Compressed:
        """A compressed adapter that a `NativeWriter` can write."""
        assert isinstance(self.dialect, NativeWriter)
        return compress(self.adapter(), to=self.dialect.takes[0])

    def checkpoint(self, folder: Path) -> Path:
        """Make a checkpoint of the dialect at or below `folder`, which does not exist yet; returns where it is.

        What the dialect writes, where it does; a dialect that is read alone overrides it.
        """
        source = self.compressed() if isinstance(self.dialect, NativeWriter) else self.adapter()
        return export(source, folder, as_=self.dialect.name, base=self.base).path

    def test_it_says_what_it_is(self) -> None:
        own = self.dialect
        assert re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", own.name), f"{own.name!r}: lower case, with hyphens"
        assert own.title.strip() == own.title != ""
        assert isinstance(own, Reader | Writer | NativeWriter), "a Reader, a Writer or a NativeWriter"
        assert not isinstance(own, NativeWriter) or own.takes, "`takes` names the methods whose tensors it writes"
        for signature in own.signature:
            re.compile(signature.pattern)
            assert signature.what.strip()

    def test_it_is_installed(self) -> None:
        assert dialects()[self.dialect.name] is self.dialect

    def test_it_names_its_files(self, tmp_path: Path) -> None:
        files = self.dialect.files
        named = (*files.weights, *files.written, *([] if files.config is None else [files.config]))
        assert all(map(is_file_name, named)), "names without folders in them"
        written = self._written(tmp_path / "out")
        assert written, "it writes a file"
        assert all(map(files.owns, written)), f"`files.written` has all of {written}"
        assert not files.owns("a-file-of-somebody-else")
        if isinstance(self.dialect, Reader):
            assert set(files.weights) & set(written), f"`files.weights` has one of {written}"
            assert files.config is None or files.config in written

    def test_its_folder_is_replaced_and_nobody_elses(self, tmp_path: Path) -> None:
        names = self._written(tmp_path / "out")
        assert names == self._written(tmp_path / "out", force=True)
        (tmp_path / "out" / "a-file-of-somebody-else").touch()
        with pytest.raises(OutputError):
            self._written(tmp_path / "out", force=True)

    def test_the_same_adapter_gives_the_same_bytes(self, tmp_path: Path) -> None:
        names = self._written(tmp_path / "a")
        assert names == self._written(tmp_path / "b")
        for name in names:
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name

    def test_factors_come_back_bit_for_bit(self, tmp_path: Path) -> None:
        if not isinstance(self.dialect, Writer) or not isinstance(self.dialect, Reader):
            pytest.skip("it does not read and write factors")
        wanted, found = self.adapter(), read(self.checkpoint(tmp_path / "out"))
        assert found.modules.keys() == wanted.modules.keys()
        for name, module in wanted.modules.items():
            own = found.modules[name]
            assert same_bits(own.A, module.A), name
            assert same_bits(own.B, module.B), name
            assert (own.scaling, own.layout, own.kernel) == (module.scaling, module.layout, module.kernel), name
        assert same_tensors(by_target(found), by_target(resolved(wanted)))

    def test_the_update_of_a_methods_tensors_comes_back(self, tmp_path: Path) -> None:
        if not isinstance(self.dialect, NativeWriter) or not isinstance(self.dialect, Reader):
            pytest.skip("it does not read and write a method's own tensors")
        source = self.compressed()
        wanted, found = (
            reconstruct(source),
            read(export(source, tmp_path / "out", as_=self.dialect.name, base=self.base).path),
        )
        assert found.modules.keys() == wanted.modules.keys()
        assert relative_error(wanted, found) < 1e-5
        assert same_tensors(by_target(found), by_target(wanted))

    def test_a_dtype_is_written_or_refused(self, tmp_path: Path) -> None:
        if not isinstance(self.dialect, Writer):
            pytest.skip("it does not write factors")
        try:
            path = export(
                self.adapter(), tmp_path / "out", as_=self.dialect.name, base=self.base, dtype="bfloat16"
            ).path
        except (RefusedError, UsageError):
            return
        if isinstance(self.dialect, Reader):
            assert {m.A.dtype for m in read(path).modules.values()} == {torch.bfloat16}

    def test_the_portable_profile_loses_nothing_silently(self, tmp_path: Path) -> None:
        if not isinstance(self.dialect, Writer):
            pytest.skip("it does not write factors")
        with pytest.raises((RefusedError, UsageError)):
            export(self.adapter(), tmp_path / "out", as_=self.dialect.name, base=self.base, portable=True)
        assert not (tmp_path / "out").exists()

    def test_what_is_read_is_of_its_name_and_vetted(self, tmp_path: Path) -> None:
        found = self._read(tmp_path)
        assert found.meta.dialect == self.dialect.name
        assert list(found.modules) == sorted(found.modules) != []
        vet(found, "the adapter")

    def test_every_extra_has_an_effect(self, tmp_path: Path) -> None:
        found = self._read(tmp_path)
        effects = found.resolved.extras
        assert effects.keys() == found.extras.keys()
        for key, effect in effects.items():
            assert key.startswith(PREFIX), f"{key}: extras have the keys that PEFT would give them"
            assert effect.tensor, key
            assert not effect.tensor.startswith(PREFIX), f"{key}: its effect names the base's own tensor"
            assert effect.role != "token_rows" or len(effect.rows or ()) == len(found.extras[key]), key

    def test_it_knows_its_own_and_no_other(self, tmp_path: Path) -> None:
        own = open_checkpoint(self._readable(tmp_path / "own"))
        reader = recognise(own)
        assert reader.name == self.dialect.name
        assert 0 < reader.sniff(own) <= 1
        for name, source in self._strangers(tmp_path):
            assert recognise(source).name == name
            assert reader.sniff(source) < recognise(source).sniff(source)

    def test_no_tensor_is_lost(self, tmp_path: Path) -> None:
        """Every key is a part of a factor, carried as an extra, or refused by name."""
        folder = self._readable(tmp_path / "own")
        whole = read(folder, base=self.base)
        for number, key in enumerate(self._tensors(folder)):
            other = self._changed(folder, tmp_path / f"renamed-{number}", renamed(key))
            found, said = _read_or_refused(other, self.base)
            if found is None:
                assert str(other) in said, f"the error about an unknown key names no file: {said}"
            else:
                assert not alike(whole, found), f"a key that is like none of its own, {STRANGE + key}, is lost"
            found, _ = _read_or_refused(self._changed(folder, tmp_path / f"without-{number}", without(key)), self.base)
            assert found is None or not alike(whole, found), f"{key} is in the file, and in nothing that is read"

    def test_broken_factors_are_refused_by_the_name_of_their_file(self, tmp_path: Path) -> None:
        folder = self._readable(tmp_path / "own")
        extras = len(read(folder, base=self.base).extras)
        refused = 0
        for number, (key, tensor) in enumerate(self._tensors(folder).items()):
            if tensor.is_floating_point():
                broken = self._changed(folder, tmp_path / f"broken-{number}", with_nan(key))
                found, said = _read_or_refused(broken, self.base)
                refused += found is None
                assert found is not None or str(broken) in said, f"the error about {key} names no file: {said}"
        assert refused + extras >= sum(t.is_floating_point() for t in self._tensors(folder).values())

    def test_it_goes_through_a_file_and_to_another_program(self, tmp_path: Path) -> None:
        """To PEFT; image pipelines, of whose models PEFT holds one, to what their own programs load."""
        found = self._read(tmp_path)
        packed = compress(found, tmp_path / "x.adz", lossless=True)
        back = reconstruct(tmp_path / "x.adz")
        assert packed.meta.dialect == back.meta.dialect == self.dialect.name
        assert alike(found, back)
        plain = read(export(tmp_path / "x.adz", tmp_path / "out", as_=None if self.dialect.pipelines else "peft").path)
        assert plain.modules.keys() == found.modules.keys()
        assert relative_error(found, plain) < 1e-6
        assert same_tensors(by_target(plain), by_target(found))

    def _written(self, folder: Path, force: bool = False) -> tuple[str, ...]:
        """What the dialect writes; skips where it writes nothing."""
        if not isinstance(self.dialect, Writer | NativeWriter):
            pytest.skip("it does not write")
        source = self.compressed() if isinstance(self.dialect, NativeWriter) else self.adapter()
        return export(source, folder, as_=self.dialect.name, base=self.base, force=force).files

    def _readable(self, folder: Path) -> Path:
        """A folder with a checkpoint of the dialect; skips where it does not read."""
        if not isinstance(self.dialect, Reader):
            pytest.skip("it does not read")
        made = self.checkpoint(folder)
        return made if made.is_dir() else made.parent

    def _read(self, tmp_path: Path) -> Adapter:
        return read(self._readable(tmp_path / "own"), base=self.base)

    def _strangers(self, tmp_path: Path) -> Iterator[tuple[str, Checkpoint]]:
        """Checkpoints of all other dialects that write factors and read them."""
        for name, other in dialects().items():
            # A dialect with a kind of files of its own is told by these.
            takes = isinstance(other, Writer) and isinstance(other, Reader) and not other.files.magic
            if takes and name != self.dialect.name:
                yield name, open_checkpoint(_written(name, tmp_path / f"of-{name}"))

    def save(self, tensors: Mapping[str, Tensor], file: Path) -> None:
        """Put other tensors into a file of the dialect's own kind, which is neither safetensors nor PyTorch's."""
        raise NotImplementedError("a dialect with a magic says how its tensors are replaced")

    def _tensors(self, folder: Path) -> dict[str, Tensor]:
        file = weight_file(folder)
        own = opener(file)
        return dict((open_weights(file) if own is None else own.open(file)).tensors)

    def _changed(self, folder: Path, copy: Path, change: Change) -> Path:
        """A copy of a checkpoint with other tensors in its weight file."""
        shutil.copytree(folder, copy)
        file = weight_file(copy)
        tensors = {key: tensor.clone().contiguous() for key, tensor in change(self._tensors(folder)).items()}
        if self.dialect.files.magic:
            self.save(tensors, file)
        elif file.suffix == ".safetensors":
            save_file(tensors, file)
        else:
            torch.save(tensors, file)
        return copy


def _read_or_refused(folder: Path, base: Path | None) -> tuple[Adapter | None, str]:
    """What is read, or None and what the error says; any other error than the package's own is a failure."""
    try:
        return read(folder, base=base), ""
    except AdaptzipError as error:
        return None, str(error)


def _written(name: str, folder: Path) -> Path:
    """A checkpoint of a dialect, of the first adapter that it has names for."""
    for given in (small_adapter(), *pipeline_adapters()):
        with suppress(RefusedError):
            return export(given, folder, as_=name, drop_extras=True).path
    raise AssertionError(f"{name} writes none of the adapters that are tried")
