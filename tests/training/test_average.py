import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from rdd_deploy.training.average import MovingAverage


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def theirs(averages: list[torch.Tensor], current: list[torch.Tensor], count: torch.Tensor | int) -> None:
    weight = 1 - min(0.9, (1 + int(count)) / (10 + int(count)))
    if averages[0].is_floating_point():
        torch._foreach_lerp_(averages, current, weight)


def test_is_torchs_average_and_resumes_from_its_state() -> None:
    net = network()
    own, other = MovingAverage(net, 0.9), AveragedModel(net, multi_avg_fn=theirs, use_buffers=True)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for step in range(6):
        net(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
        own.update()
        other.update_parameters(net)
        assert own.state_dict().keys() == other.state_dict().keys()
        for name, value in other.state_dict().items():
            assert torch.equal(own.state_dict()[name], value), name
        if step == 3:
            again = MovingAverage(net, 0.9)
            again.load_state_dict(other.state_dict())
            own = again
