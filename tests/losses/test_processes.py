import numpy as np
import torch
from gloo import pair

from rdd_deploy.losses.processes import mean_count, mean_images, mean_pixels, safe, several, total
from rdd_deploy.losses.ranks import kth_smallest


def test_alone_they_are_the_processs_own() -> None:
    assert not several()
    count = torch.tensor(3)
    assert mean_count(count) is count
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    assert total(values) is values
    assert safe(torch.tensor([0, 2])).tolist() == [1, 2]
    assert safe(torch.tensor(0.5)).item() == 0.5, "the mean over two processes of one pixel"
    valid = torch.zeros(3, 2, 2, dtype=torch.bool)
    assert (mean_pixels(valid).item(), mean_images(valid).item()) == (1, 1)
    valid[0, 0] = True
    valid[2, 1, 1] = True
    assert (mean_pixels(valid).item(), mean_images(valid).item()) == (3, 2)


def work(rank: int) -> dict[str, object]:
    """What each of two processes gets; process 1 has twice the values of process 0."""
    count = torch.tensor(3 * (rank + 1))
    whole, weights = mean_count(count), mean_count(torch.tensor([0.5, 1.0]) * (rank + 1))
    part = torch.tensor([1.0, 2.0]) * (rank + 1)
    part.requires_grad_()
    summed = total(part.expand(2, 2))  # not contiguous
    (summed * torch.tensor([[1.0, 10.0], [100.0, 1000.0]])).sum().backward()
    valid = torch.zeros(2, 1, 3, dtype=torch.bool)
    valid[0] = rank == 1
    return {
        "several": several(), "whole": (whole.item(), str(whole.dtype)), "weights": (weights.tolist(), str(weights.dtype)),
        "untouched": count.item(), "total": summed.detach().numpy(), "gradient": part.grad.numpy(),
        "fourth": kth_smallest([torch.tensor([0.5, 0.1]), torch.tensor([0.3, torch.inf, 0.0, 1e-40])][rank], torch.tensor(4)).item(),
        "valid": (mean_pixels(valid).item(), mean_images(valid).item()),
    }  # fmt: skip


def test_of_two_processes() -> None:
    first, second = pair(work)
    for one in (first, second):
        assert one["several"]
        assert one["fourth"] == torch.tensor(0.3).item(), "the fourth of 0, 1e-40, 0.1, 0.3, 0.5, inf"
        assert one["whole"] == (4.5, "torch.float32")
        assert one["weights"] == ([0.75, 1.5], "torch.float32")
        assert (one["total"] == np.array([[3, 6], [3, 6]])).all()
        # Both processes have the loss of the same totals: averaged, this is the gradient of one loss of them.
        assert (one["gradient"] / 2 == np.array([101, 1010])).all()
        assert one["valid"] == (1.5, 0.5)
    assert (first["untouched"], second["untouched"]) == (3, 6)
