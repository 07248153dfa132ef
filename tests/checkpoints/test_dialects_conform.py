"""Every dialect of ours, and a toy of another package's, passes the suite that plug-ins inherit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import adaptzip
from adaptzip.checkpoints import PREFIX, dialect, dialects
from adaptzip.core.adapter import Adapter, LoraFactors
from adaptzip.core.compressed import Compressed
from adaptzip.core.meta import Meta
from adaptzip.testing.dialects import DialectTests, small_adapter
from tests.cases import toy_dialect
from tests.cases.gguf_files import write_gguf
from tests.cases.plugging import installed_dialects


def with_dora(given: Adapter) -> dict[str, LoraFactors]:
    """The modules of an adapter with magnitudes that differ from row to row."""
    return {
        name: replace(module, magnitude=torch.arange(1.0, 1 + module.shape[0]))
        for name, module in given.modules.items()
    }


class TestPeft(DialectTests):
    dialect = dialect("peft")


class TestPeftVblora(DialectTests):
    dialect = dialect("peft-vblora")

    def compressed(self) -> Compressed:
        return adaptzip.compress(self.adapter(), to="vblora", max_error=0.3, rank=2, length=8, vectors=12, uniform=True)


class TestLoraXs(DialectTests):
    dialect = dialect("lora-xs")

    def compressed(self) -> Compressed:
        return adaptzip.compress(self.adapter(), to="lora-sb", max_error=0.3)


class TestLoretta(DialectTests):
    dialect = dialect("loretta")

    def checkpoint(self, folder: Path) -> Path:
        """Trains of an A (16, 4) and a B (4, 24), and a head."""
        folder.mkdir()
        generator = torch.Generator().manual_seed(0)
        stem = f"{PREFIX}model.layers.0.self_attn.q_proj"
        shapes = {"A": ((1, 4, 2), (2, 4, 2), (2, 4, 1)), "B": ((1, 4, 2), (2, 4, 2), (2, 6, 1))}
        tensors = {
            f"{stem}.lora_{side}.layer.tensor.factors.{i}": torch.randn(*shape, generator=generator)
            for side, cores in shapes.items()
            for i, shape in enumerate(cores)
        }
        head = {f"{PREFIX}score.weight": torch.randn(3, 16, generator=generator)}
        save_file(tensors | head, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "bottleneck_size": 4, "lora_alpha": 6, "r": 8, "task_type": "SEQ_CLS"}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return folder


class TestLorettaAdp(DialectTests):
    dialect = dialect("loretta-adp")

    def compressed(self) -> Compressed:
        """The functions of one layer, kept as they are."""
        generator = torch.Generator().manual_seed(0)
        stem = f"{PREFIX}model.layers.0.mlp.down_proj.adapter_"
        shapes = {"tensor.factors.0": (1, 8, 2), "tensor.factors.1": (2, 8, 1)}
        cores = {f"{stem}{side}.layer.{part}": shape for side in ("down", "up") for part, shape in shapes.items()}
        shaped = {**cores, f"{stem}down.layer.bias": (4,), f"{stem}up.layer.bias": (16,)}
        tensors = {key: torch.randn(*shape, generator=generator) for key, shape in shaped.items()}
        config = {"peft_type": "BOTTLENECK", "non_linearity": "relu", "scaling": 2.0}
        return adaptzip.compress(Adapter({}, tensors, Meta("loretta-adp", config)), lossless=True)


def kin(
    folder: Path, shapes: Mapping[str, tuple[int, ...]], shared: Mapping[str, Tensor] | None = None, **config: object
) -> Path:
    """A folder of another of PEFT's methods: one module, what all share, and a head beside it."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    keys = {f"model.layers.0.self_attn.q_proj.{part}": shape for part, shape in shapes.items()} | {
        "score.weight": (3, 16)
    }
    tensors = {f"{PREFIX}{key}": torch.randn(*shape, generator=generator) for key, shape in keys.items()}
    save_file(tensors | dict(shared or {}), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"task_type": "SEQ_CLS", **config}))
    return folder


class TestPeftAdalora(DialectTests):
    dialect = dialect("peft-adalora")

    def checkpoint(self, folder: Path) -> Path:
        """Of six ranks four are left."""
        shapes = {"lora_A": (4, 16), "lora_E": (4, 1), "lora_B": (24, 4)}
        masks = {"model.layers.0.self_attn.q_proj.lora_E": [True, False, True, True, False, True]}
        return kin(folder, shapes, peft_type="ADALORA", init_r=6, r=8, lora_alpha=16, rank_pattern=masks)


class TestPeftDelora(DialectTests):
    dialect = dialect("peft-delora")

    def checkpoint(self, folder: Path) -> Path:
        shapes = {"delora_A": (4, 16), "delora_B": (24, 4), "delora_lambda": (1,), "delora_w_norm": (16,)}
        return kin(folder, shapes, peft_type="DELORA", r=4)


class TestPeftGralora(DialectTests):
    dialect = dialect("peft-gralora")

    def checkpoint(self, folder: Path) -> Path:
        blocks: Mapping[str, tuple[int, ...]] = {"gralora_A": (2, 8, 4), "gralora_B": (2, 4, 12)}
        general = {"gralora_A_general.weight": (3, 16), "gralora_B_general.weight": (24, 3)}
        return kin(folder, {**blocks, **general}, peft_type="GRALORA", r=4, gralora_k=2, hybrid_r=3, alpha=12)


class TestPeftLoha(DialectTests):
    dialect = dialect("peft-loha")

    def checkpoint(self, folder: Path) -> Path:
        shapes = {"hada_w1_a": (24, 2), "hada_w1_b": (2, 16), "hada_w2_a": (24, 2), "hada_w2_b": (2, 16)}
        return kin(folder, shapes, peft_type="LOHA", r=2, alpha=3)


class TestPeftLokr(DialectTests):
    dialect = dialect("peft-lokr")

    def checkpoint(self, folder: Path) -> Path:
        shapes = {"lokr_w1": (4, 2), "lokr_w2_a": (6, 1), "lokr_w2_b": (1, 8)}
        return kin(folder, shapes, peft_type="LOKR", r=1, alpha=3)


def one_layer(folder: Path) -> Path:
    """A base model of the layer that `kin` is of."""
    tensors = {"model.layers.0.self_attn.q_proj.weight": torch.zeros(24, 16), "score.weight": torch.zeros(3, 16)}
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return folder


class TestPeftMiss(DialectTests):
    dialect = dialect("peft-miss")

    @pytest.fixture(autouse=True)
    def _beside(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        """A base model of the one weight that is changed."""
        self.base = one_layer(tmp_path_factory.mktemp("base"))

    def checkpoint(self, folder: Path) -> Path:
        return kin(folder, {"miss_block": (5, 24)}, peft_type="MISS", r=5)


class TestPeftVera(DialectTests):
    dialect = dialect("peft-vera")

    def checkpoint(self, folder: Path) -> Path:
        """The one module that there is, which is as wide as A."""
        shared = {"base_model.vera_A": torch.randn(3, 16), "base_model.vera_B": torch.randn(24, 3)}
        return kin(folder, {"vera_lambda_b": (24,), "vera_lambda_d": (3,)}, shared, peft_type="VERA", r=3)


class TestPeftTinylora(DialectTests):
    dialect = dialect("peft-tinylora")

    def checkpoint(self, folder: Path) -> Path:
        """A core of rank 2 from 3 numbers, of the one module that there is."""
        shapes = {"tinylora_A": (2, 16), "tinylora_B": (24, 2), "tinylora_P": (3, 2, 2)}
        shared = {"base_model.tinylora_v.0": torch.tensor([0.5, -1.0, 2.0])}
        return kin(folder, shapes, shared, peft_type="TINYLORA", r=2, u=3)


class TestPeftUnilora(DialectTests):
    dialect = dialect("peft-unilora")

    def checkpoint(self, folder: Path) -> Path:
        """A vector of five numbers."""
        shared = {"base_model.unilora_theta_d": torch.randn(5)}
        for side, shape in (("A", (2, 16)), ("B", (24, 2))):
            shared[f"{PREFIX}model.layers.0.self_attn.q_proj.unilora_indices_{side}"] = torch.randint(0, 5, shape)
        shapes = {"unilora_scales_A": (2, 16), "unilora_scales_B": (24, 2)}
        return kin(folder, shapes, shared, peft_type="UNILORA", r=2, theta_d_length=5)


class TestPeftMergedLinear(DialectTests):
    dialect = dialect("peft-merged-linear")

    def checkpoint(self, folder: Path) -> Path:
        """Of three parts of eight rows two have factors."""
        shapes = {"lora_A.weight": (8, 16), "lora_B.weight": (16, 4, 1)}
        return kin(folder, shapes, peft_type="LORA", r=4, lora_alpha=6, enable_lora=[True, False, True])


def script(folder: Path, shapes: Mapping[str, tuple[int, ...]], **config: object) -> Path:
    """A folder as a training script leaves it, of the adapter and its head alone."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    tensors = {key: torch.rand(*shape, generator=generator) + 0.1 for key, shape in shapes.items()}
    torch.save(tensors | {"classifier.weight": torch.randn(3, 16, generator=generator)}, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


QUERY = "roberta.encoder.layer.0.attention.self.query"


class TestLoralib(DialectTests):
    dialect = dialect("loralib")

    def checkpoint(self, folder: Path) -> Path:
        return script(folder, {f"{QUERY}.lora_A": (4, 16), f"{QUERY}.lora_B": (24, 4)}, lora_alpha=6)


class TestAdalora(DialectTests):
    dialect = dialect("adalora")

    def checkpoint(self, folder: Path) -> Path:
        shapes = {"lora_A": (4, 16), "lora_E": (4, 1), "lora_B": (24, 4), "ranknum": (1,)}
        return script(folder, {f"{QUERY}.{part}": shape for part, shape in shapes.items()}, lora_alpha=6)


class TestIncrelora(DialectTests):
    dialect = dialect("increlora")

    def checkpoint(self, folder: Path) -> Path:
        shapes = {"lora_A": (1, 16), "lora_E": (1, 1), "lora_B": (24, 1)}
        blocks = {f"{QUERY}.{part}.{i}": shape for i in range(3) for part, shape in shapes.items()}
        return script(folder, blocks | {f"{QUERY}.ranknum": (1,)}, lora_alpha=6)


class TestVbloraNlu(DialectTests):
    dialect = dialect("vblora-nlu")

    def checkpoint(self, folder: Path) -> Path:
        """A bank of ten vectors of eight numbers, the model's and once more the module's."""
        shapes = {"roberta.vector_bank": (10, 8), f"{QUERY}.logits_A": (2, 4, 10), f"{QUERY}.logits_B": (3, 4, 10)}
        made = script(folder, shapes, topk=2)
        tensors = torch.load(made / "pytorch_model.bin")
        bank = tensors["roberta.vector_bank"]
        torch.save(tensors | {f"{QUERY}.vector_bank": bank}, made / "pytorch_model.bin")
        return made


class TestMlx(DialectTests):
    dialect = dialect("mlx")

    def adapter(self) -> Adapter:
        """A DoRA of two layers, without a head, with the scales within the factors."""
        return replace(small_adapter(1.0), modules=with_dora(small_adapter(1.0)), extras={})


class TestGguf(DialectTests):
    dialect = dialect("gguf")

    @pytest.fixture(autouse=True)
    def _based(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        self.base = tmp_path_factory.mktemp("base")
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 1}
        (self.base / "config.json").write_text(json.dumps({"model_type": "llama", "head_dim": 8, **sizes}))

    def adapter(self) -> Adapter:
        """Without a head, with the scales within the factors."""
        return replace(small_adapter(1.0), extras={})

    def save(self, tensors: Mapping[str, Tensor], file: Path) -> None:
        write_gguf(file, tensors, {"llama.attention.head_count": 3, "llama.attention.head_count_kv": 1})


class TestToy(DialectTests):
    dialect = toy_dialect.DIALECT

    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        with installed_dialects(tmp_path_factory.mktemp("site")):
            yield


def image_adapter(
    dialect: str, names: Iterable[str], extras: Mapping[str, Tensor] | None = None, scaling: float = 1.0
) -> Adapter:
    """Square layers of rank 2 with these names, a convolution where one is called so."""
    generator = torch.Generator().manual_seed(0)
    modules = {}
    for name in sorted(names):
        kernel = (3, 3) if name.endswith("conv1") else ()
        A, B = (torch.randn(*shape, generator=generator) for shape in ((2, 144 if kernel else 16), (16, 2)))
        modules[name] = LoraFactors(A, B, scaling, "conv" if kernel else "linear", kernel)
    return Adapter(modules, extras or {}, Meta(dialect))


ATTENTION = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1"
TEXT = "text_encoder.text_model.encoder.layers.0.mlp.fc1"
BLOCK = "diffusion_model.double_blocks.0"


class TestKohya(DialectTests):
    dialect = dialect("kohya")

    def adapter(self) -> Adapter:
        names = (
            f"{ATTENTION}.to_q",
            "unet.mid_block.resnets.0.conv1",
            "text_encoder.text_model.encoder.layers.0.mlp.fc1",
        )
        added = {f"{PREFIX}unet.mid_block.resnets.0.norm1.{leaf}": torch.ones(16) for leaf in ("weight", "bias")}
        return image_adapter("kohya", names, added, scaling=0.5)


class TestDiffusers(DialectTests):
    dialect = dialect("diffusers")

    def adapter(self) -> Adapter:
        return image_adapter("diffusers", (f"{ATTENTION}.to_q", f"{ATTENTION}.to_out.0", TEXT))


class TestComfyUi(DialectTests):
    dialect = dialect("comfyui")

    def adapter(self) -> Adapter:
        added = {f"{PREFIX}{BLOCK}.img_attn.proj.bias": torch.ones(16)}
        return image_adapter("comfyui", (f"{BLOCK}.img_attn.proj", f"{BLOCK}.txt_mlp.0"), added)


class TestBfl(DialectTests):
    dialect = dialect("bfl")

    def adapter(self) -> Adapter:
        replaced = {f"{PREFIX}{BLOCK}.img_attn.norm.key_norm.scale": torch.ones(8)}
        return image_adapter("bfl", (f"{BLOCK}.img_attn.proj", f"{BLOCK}.txt_mlp.0"), replaced)


class TestXlabs(DialectTests):
    dialect = dialect("xlabs")

    def adapter(self) -> Adapter:
        return image_adapter("xlabs", (f"{BLOCK}.img_attn.proj", f"{BLOCK}.txt_attn.qkv"))


class TestAttentionProcessors(DialectTests):
    dialect = dialect("attention-processors")

    def adapter(self) -> Adapter:
        return image_adapter("attention-processors", (f"{ATTENTION}.to_q", f"{ATTENTION}.to_out.0"))


class TestCloneofsimo(DialectTests):
    dialect = dialect("cloneofsimo")

    def checkpoint(self, folder: Path) -> Path:
        """A text encoder of two layers."""
        folder.mkdir()
        generator = torch.Generator().manual_seed(0)
        shapes = {"up": (16, 2), "down": (2, 16)}
        tensors = {
            f"text_encoder:{number}:{part}": torch.randn(*shape, generator=generator)
            for number in range(8)
            for part, shape in shapes.items()
        }
        save_file(tensors, folder / "lora.safetensors")
        return folder


def test_every_dialect_of_ours_is_here() -> None:
    assert {suite.dialect.name for suite in DialectTests.__subclasses__()} >= dialects().keys()
