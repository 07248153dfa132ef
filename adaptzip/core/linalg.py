"""Linear algebra on low-rank factors: the SVD of `scaling * B @ A` without the dense product, and devices."""

from __future__ import annotations

from importlib import import_module

import torch
from torch import Tensor

from adaptzip.errors import UsageError


def factored_svd(
    A: Tensor, B: Tensor, scaling: float | Tensor = 1.0, *, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    """Thin SVD of each `scaling * B @ A` in a batch, by QR of both factors and an SVD of the small core.

    Args:
        A: (n, r, in), any real dtype.
        B: (n, out, r).
        scaling: one number, or (n,) numbers.
        dtype: float32 or float64, of the computation and of the results.

    Returns:
        U (n, out, k), S (n, k) in falling order, Vt (n, k, in), with k = min(r, in, out) and the signs of
        `canonical_signs`. Components beyond the true rank have S near 0 and arbitrary orthonormal vectors.
    """
    scale = torch.as_tensor(scaling, dtype=dtype, device=A.device)
    q_a, r_a = torch.linalg.qr(A.to(dtype).mT)
    q_b, r_b = torch.linalg.qr(B.to(dtype))
    u, S, vt = torch.linalg.svd((r_b @ r_a.mT) * scale.reshape(-1, 1, 1), full_matrices=False)
    U, Vt = canonical_signs(q_b @ u, vt @ q_a.mT)
    return U, S, Vt


def factored_values(
    A: Tensor, B: Tensor, scaling: float | Tensor = 1.0, *, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Singular values alone, (n, min(r, in, out)) in falling order, in less time than `factored_svd` takes.

    Args:
        A, B, scaling, dtype: as for `factored_svd`.
    """
    scale = torch.as_tensor(scaling, dtype=dtype, device=A.device)
    r_a = torch.linalg.qr(A.to(dtype).mT, mode="r").R
    r_b = torch.linalg.qr(B.to(dtype), mode="r").R
    found: Tensor = torch.linalg.svdvals((r_b @ r_a.mT) * scale.reshape(-1, 1, 1))
    return found


def canonical_signs(U: Tensor, Vt: Tensor) -> tuple[Tensor, Tensor]:
    """Flip pairs of singular vectors so that the entry of largest magnitude in each column of U is positive.

    Args:
        U: (..., out, k).
        Vt: (..., k, in).

    Among entries of equal magnitude the one of lowest index decides.
    """
    size = U.abs()
    index = torch.arange(U.shape[-2], device=U.device).unsqueeze(-1)
    first = torch.where(size == size.amax(-2, keepdim=True), index, U.shape[-2] - 1).amin(-2, keepdim=True)
    sign = torch.where(U.gather(-2, first) < 0, -1.0, 1.0).to(U.dtype)
    return U * sign, Vt * sign.mT


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """The device that is meant: "auto" (CUDA when present), "cpu", "cuda" or "cuda:1", or one of these of torch's.

    Raises:
        UsageError: if it is none of these, or is a CUDA device that this machine lacks.
    """
    name = device if isinstance(device, str) else device.type if device.type == "cpu" else str(device)
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    kind, _, number = name.partition(":")
    if kind == "mps":
        raise UsageError(
            f"device {name!r} can't be used: what decides bytes is counted in float64, which Apple's GPUs lack",
            hint="use `device='cpu'`",
        )
    if kind != "cuda" or not (number.isdecimal() or name == "cuda"):
        hint = "write auto, cpu, cuda or cuda:N"
        raise UsageError(f"device {name!r} is unknown", hint='did you mean "cuda"?' if name == "gpu" else hint)
    if int(number or 0) >= available:
        raise UsageError(
            f"device {name!r} is not present: torch sees {available} CUDA devices",
            hint="use `device='cpu'`, or install a CUDA build of torch",
        )
    return torch.device(name)


def leading_eigen(symmetric: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest `count` eigenvalues of a symmetric float64 matrix (n, n) on the CPU, falling, and vectors (n, count).

    LAPACK's partial eigensolver takes a quarter of the whole decomposition's time. scipy is imported here, as to import
    it takes as long as to compress a small adapter.
    """
    size = len(symmetric)
    eigh = import_module("scipy.linalg").eigh
    values, vectors = eigh(symmetric.numpy(), subset_by_index=(size - count, size - 1), check_finite=False)
    return torch.from_numpy(values).flip(0), torch.from_numpy(vectors).flip(1)
