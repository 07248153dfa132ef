"""What a method's files hold, and that they come back as what was compressed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from adaptzip.adz.container import writer
from adaptzip.adz.container.reader import open_adz
from adaptzip.core.adapter import Adapter
from adaptzip.core.comparing import same_bits
from adaptzip.errors import AdaptzipError, RefusedError, UsageError
from adaptzip.fitting.compression import compress as compress_any
from adaptzip.reports.verifying import verify
from adaptzip.restoring.exporting import export
from adaptzip.restoring.reading import read
from adaptzip.restoring.reconstruction import reconstruct, reconstruct_native
from adaptzip.testing._case import SOURCE, MethodCase, base_role, made
from adaptzip.testing.adapters import factors, relative_error, same_factors
from adaptzip.testing.trials import compress, limits_of, needs_file


class FileTests(MethodCase):
    """Files, and what is read from them."""

    def test_numbers_written_are_those_of_the_layout(self, tmp_path: Path) -> None:
        writer.write(made(self.method), tmp_path / "x.adz")
        compressed = open_adz(tmp_path / "x.adz")
        decoded, _ = reconstruct_native(compressed)
        config = self.method.config_type(**compressed.config)
        total = sum(spec.numbers for spec in self.method.shared_layout(config))
        for module in decoded.values():
            own = {role for role in module.tensors if base_role(role) in self.method.roles}
            total += sum(module.tensors[role].numel() for role in own)
        if self.method.needs_basis:
            sizes = zip(compressed.basis_sizes, compressed.sites.values(), strict=True)
            total += sum(size * (site.out + site.width) for size, site in sizes)
        assert compressed.provenance.parameters == total

    def test_equal_input_gives_equal_bytes(self, tmp_path: Path) -> None:
        writer.write(made(self.method), tmp_path / "x.adz")
        compress(self.method.name, SOURCE, tmp_path / "again.adz", **limits_of(self.method.name, SOURCE, 0.2))
        assert (tmp_path / "x.adz").read_bytes() == (tmp_path / "again.adz").read_bytes()

    def test_the_number_of_threads_changes_no_byte(self, tmp_path: Path) -> None:
        """Nor is it another one afterwards."""
        before = torch.get_num_threads()
        files = [tmp_path / "1.adz", tmp_path / "2.adz"]
        try:
            for threads, path in zip((1, 2), files, strict=True):
                torch.set_num_threads(threads)
                compress(self.method.name, SOURCE, path, **limits_of(self.method.name, SOURCE, 0.2))
                assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        assert files[0].read_bytes() == files[1].read_bytes()

    def test_reconstruction_does_not_depend_on_threads(self) -> None:
        before = torch.get_num_threads()
        results = []
        try:
            for threads in (1, 3):
                torch.set_num_threads(threads)
                results.append(reconstruct(made(self.method)))
        finally:
            torch.set_num_threads(before)
        assert same_factors(*results)

    def test_writing_changes_nothing(self, tmp_path: Path) -> None:
        found = made(self.method)
        writer.write(found, tmp_path / "x.adz")
        before, after = reconstruct(found), reconstruct(tmp_path / "x.adz")
        assert same_factors(before, after)
        for module, source in SOURCE.modules.items():
            assert after.modules[module].shape == source.shape
            assert after.modules[module].A.dtype == after.modules[module].B.dtype == torch.float32
        error = found.provenance.relative_error
        assert relative_error(SOURCE, after) == pytest.approx(error, rel=1e-3)
        assert error <= 0.2 or not self.meets_errors
        assert verify(tmp_path / "x.adz", SOURCE, max_error=0.2 if self.meets_errors else 1.0).passed

    def test_the_basis_may_be_a_file_of_its_own(self, tmp_path: Path) -> None:
        name, embedded = self.method.name, made(self.method)
        if not self.method.needs_basis:
            assert embedded.basis is None
            return
        file = tmp_path / "x.basis"
        options = needs_file(name, SOURCE, file)
        compressed = compress(name, SOURCE, tmp_path / "x.adz", max_error=0.2, **options)
        assert compressed.provenance.parameters < embedded.provenance.parameters
        assert (tmp_path / "x.adz").stat().st_size < writer.size(embedded)
        after = reconstruct(tmp_path / "x.adz", basis=file)
        assert relative_error(SOURCE, after) == pytest.approx(compressed.provenance.relative_error, rel=1e-3)
        with pytest.raises(AdaptzipError, match="basis"):
            reconstruct(tmp_path / "x.adz")

    def test_unknown_options_are_refused(self) -> None:
        name = self.method.name
        with pytest.raises(UsageError, match=f"{name!r} has no option 'colour'") as caught:
            compress(name, SOURCE, colour="blue")
        assert caught.value.hint

    def test_options_of_unknown_files_are_refused(self) -> None:
        found = made(self.method)
        odd = dataclasses.replace(found, config={**found.config, "colour": 1})
        with pytest.raises(RefusedError, match="'colour'"):
            reconstruct(odd)

    def test_lossless_files_do_not_depend_on_it(self, tmp_path: Path) -> None:
        compress_any(SOURCE, tmp_path / "x.adz", to=self.method.name, lossless=True)
        again = reconstruct(tmp_path / "x.adz")
        assert all(same_bits(again.modules[m].A, SOURCE.modules[m].A) for m in SOURCE.modules)

    def test_what_hangs_on_modules_and_beside_them_is_kept(self, tmp_path: Path) -> None:
        modules = {
            "conv": factors(8, 27, 2, layout="conv", kernel=(3, 3)),
            "emb": factors(6, 50, 2, layout="embedding"),
            "fc": factors(12, 8, 2, layout="transposed", magnitude=torch.rand(12) + 1),
            "lin": factors(9, 7, 2, bias=torch.arange(9.0).half(), magnitude=torch.ones(9).bfloat16()),
        }
        source = Adapter(modules, {"head": torch.randn(4, 5), "steps": torch.tensor(7)})
        compress(self.method.name, source, tmp_path / "x.adz", **limits_of(self.method.name, source, 0.4))
        again = reconstruct(tmp_path / "x.adz")
        assert source.extras.keys() == again.extras.keys()
        assert all(same_bits(source.extras[key], again.extras[key]) for key in source.extras)
        for key, module in modules.items():
            other = again.modules[key]
            assert (other.layout, other.kernel, other.shape) == (module.layout, module.kernel, module.shape)
            for part in ("magnitude", "bias"):
                ours, theirs = getattr(other, part), getattr(module, part)
                assert (ours is None) == (theirs is None)
                assert theirs is None or same_bits(ours, theirs)

    def test_its_export_is_read_back(self, tmp_path: Path) -> None:
        # Extras of any name are no part of a PEFT checkpoint.
        found = compress(self.method.name, Adapter(SOURCE.modules), **limits_of(self.method.name, SOURCE, 0.2))
        export(found, tmp_path / "exported")
        assert relative_error(reconstruct(found), read(tmp_path / "exported")) < 1e-6
