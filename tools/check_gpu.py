"""Hold what runs on a GPU against the same on a CPU, and time it: the tests have no GPU.

    python tools/check_gpu.py

Exits 1 where something differs, and 2 where there is no GPU. TF32 is off, as float32 is meant.
"""

from __future__ import annotations

import sys
from time import perf_counter

import torch
import torch.nn.functional as F

import caffe_margin.torch as cmt
from generated import ROOT

MODEL = ROOT / "models" / "sphereface_model.prototxt"
RTOL = {torch.float64: 1e-10, torch.float32: 2e-5}


def heads(dtype: torch.dtype) -> float:
    """Return how far the heads' outputs and gradients differ, over all rules and both layers."""
    worst = 0.0
    x, label = torch.randn(64, 128, dtype=dtype), torch.randint(1000, (64,))
    for kind in (cmt.MarginInnerProduct, cmt.LargeMarginInnerProduct):
        for gradient in ("paper", "exact", "detached"):
            cpu = kind(128, 1000, gradient=gradient, dtype=dtype)
            gpu = kind(128, 1000, gradient=gradient, dtype=dtype, device="cuda")
            gpu.load_state_dict(cpu.state_dict())
            found = []
            for head in (cpu, gpu):
                device = head.weight.device
                mine = x.to(device).requires_grad_()
                loss = F.cross_entropy(head(mine, label.to(device)), label.to(device))
                loss.backward()
                found.append([loss, mine.grad, head.weight.grad])
            worst = max(worst, *(off(a, b) for a, b in zip(*found, strict=True)))
    return worst


def off(cpu: torch.Tensor | None, gpu: torch.Tensor | None) -> float:
    """Return the largest difference over the largest magnitude."""
    if cpu is None or gpu is None:
        raise SystemExit("a gradient is missing")
    return float((cpu - gpu.cpu()).abs().max() / cpu.abs().max())


def nets(dtype: torch.dtype) -> float:
    """Return how far SphereFace-20's loss and gradients differ."""
    x, label = torch.rand(4, 3, 112, 96, dtype=dtype) * 2 - 1, torch.randint(10572, (4,))
    shapes = {"data": x.shape, "label": label.shape}
    found = []
    for device in ("cpu", "cuda"):
        net = cmt.Net(MODEL, phase="TRAIN", shapes=shapes, seed=0, device=device, dtype=dtype)
        loss = net.loss(net(data=x.to(device), label=label.to(device)))
        loss.backward()
        found.append([loss, *(p.grad for p in net.parameters() if p.grad is not None)])
    return max(off(a, b) for a, b in zip(*found, strict=True))


def time_a_step(batch: int, compiled: bool) -> float:
    """Return the milliseconds of SphereFace-20's forward and backward."""
    x, label = torch.rand(batch, 3, 112, 96, device="cuda"), torch.randint(10572, (batch,))
    shapes = {"data": x.shape, "label": label.shape}
    net = cmt.Net(MODEL, phase="TRAIN", shapes=shapes, device="cuda")
    run = torch.compile(net) if compiled else net
    label = label.cuda()
    for i in range(13):
        if i == 3:
            torch.cuda.synchronize()
            start = perf_counter()
        net.zero_grad()
        net.loss(run(data=x, label=label)).backward()
    torch.cuda.synchronize()
    return (perf_counter() - start) * 100


def main() -> int:
    """Print a line a check."""
    if not torch.cuda.is_available():
        print("there is no GPU here", file=sys.stderr)
        return 2
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    ok = True
    for what, check in (("heads", heads), ("SphereFace-20", nets)):
        for dtype, rtol in RTOL.items():
            worst = check(dtype)
            ok &= worst <= rtol
            print(f"{what}, {dtype}: {worst:.1e} from the CPU ({rtol:g} at most)")
    for compiled in (False, True):
        milliseconds = time_a_step(256, compiled)
        print(f"SphereFace-20, batch 256, compiled={compiled}: {milliseconds:.1f} ms a step")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
